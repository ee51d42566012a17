"""Train or finetune a base on single views: the toy bases from scratch, stage 1 of the depth task, inpainting bases.

Axes: B samples, V views, N selected views of the B x V of a batch, C latent channels, H W image, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, compress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.denoising import denoise, guided
from mvdiff.diffusion import mean_over_views, noise_loss, view_noise
from mvdiff.keyed import keyed_generator
from mvdiff.models.autoencoder import enable_slicing
from mvdiff.models.backbone import load_backbone
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.models.bases.transformer import TransformerBase
from mvdiff.models.finite import check_finite
from mvdiff.models.fresh import FreshBase, FreshTransformer
from mvdiff.pipelines.prompt_files import expand_negative_prompt
from mvdiff.pipelines.sampling_checks import check_sampling
from mvdiff.settings import CacheSettings, FlowSettings, LossSettings, MemorySettings, Sampling
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task
from mvdiff.text_states import TextStates, map_states
from mvdiff.training.cache import check_latents_come_back
from mvdiff.training.callbacks import gather, image_grid, log_image
from mvdiff.training.draws import check_loss, draw_noise, timesteps_of, zero_terminal_snr
from mvdiff.training.inputs import Prompts, SingleViewInputs
from mvdiff.training.nonfinite import OnNonFinite
from mvdiff.training.optimization import adamw
from mvdiff.training.run_folder import run_folder
from mvdiff.training.schedules import LRInterval
from mvdiff.training.step_log import add_quarters
from mvdiff.training.trained_part import TrainedPartModule

VALIDATION_EPOCH = -1
"""Epoch in the keys of validation's timesteps and noise, which are therefore fixed."""

FROZEN_KEY = "mvdiff_frozen"
"""Checkpoint key of the hashes of the base's frozen parts."""

QUICK_SAMPLING = Sampling(num_inference_steps=25, guidance_scale=3.0)
ALL_MEMORY, NO_CACHE, PAPER_LOSS, PLAIN_FLOW = MemorySettings(), CacheSettings(), LossSettings(), FlowSettings()


class SingleViewModule(TrainedPartModule):
    """Train a whole UNet or transformer, and optionally a UNet's text encoder, on the noise loss of single views.

    A batch of B samples with V views counts as B x V independent images. Timesteps, noise and text dropout depend on
    (seed, epoch, sample index, view) alone. The rest of the base is frozen and not in checkpoints. With the callback
    `mvdiff.training.ema.TrainedWeightsEMA`, the averaged weights are validated and written.

    Args:
        out: Output folder of the trained base (a diffusers folder), written when fit ends.
        task: Task that the base is for, by name (panorama, outpaint, depth) or class path; it defines the UNet's input.
        add_input: Add the task's input channels to a text-to-image base, with zero weights, so that training starts
            from the base's own output.
        base: Folder, Hugging Face hub id or `mvdiff://` name of the base to start from; None with `fresh`.
        fresh: Configs of an untrained base to start from, a UNet or a transformer; None with `base`.
        revision: Branch, tag or commit of a hub base.
        vae: Hub id or folder of an autoencoder to use in place of that of `base`.
        train_text_encoder: Also train the text encoder.
        prompt_prefix: Text put before every prompt (default: "This is one view of a scene. " for panorama and outpaint,
            none for depth).
        optimizer: Optimizer of the trained parameters, as `class_path` and `init_args` in YAML (default: the paper's
            AdamW, learning rate 2e-4).
        lr_scheduler: Learning-rate schedule, as `class_path` and `init_args` (default: null, a constant rate).
            `total_steps` defaults to the length of the run.
        lr_interval: How often the schedule advances: once per "epoch" or once per optimizer "step". If
            `trainer.max_steps` ends the run before `trainer.max_epochs`, a schedule without a length of its own
            advances per step in either case.
        text_dropout: Probability that a prompt is replaced by the empty one, for classifier-free guidance.
        snr_gamma: Gamma of min-SNR loss weighting; None: unweighted loss.
        loss: Timesteps, noise and noise schedule of the training.
        flow: Noise levels of training a base of flow matching.
        seed: Random seed of training and of the samples.
        sampling: Sampling settings of validation.
        memory: Settings that save memory; `views_per_chunk` does not apply to single views.
        cache: Caches of the frozen parts' outputs; text embeddings are not cached with `train_text_encoder`.
        num_validation_samples: Number of views of the first validation batch to generate; 0: none.
        out_dtype: Precision of the written weights.
        on_nonfinite: What to do if a loss or a gradient is not finite: "stop" the run, or "skip" the step.

    Raises:
        ValueError: Neither or both of `base` and `fresh` are set, the base does not take the task's input or a setting,
            or the cache has nothing to store.
    """

    trained_part = "trained_modules"
    logged_names = ("train/loss", "val/loss")

    def __init__(
        self,
        out: str,
        task: Task | str = "panorama",
        add_input: bool = False,
        base: str | None = None,
        fresh: FreshBase | FreshTransformer | None = None,
        revision: str | None = None,
        vae: str | None = None,
        train_text_encoder: bool = False,
        prompt_prefix: str | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: LRInterval = "step",
        text_dropout: float = 0.1,
        snr_gamma: float | None = None,
        loss: LossSettings = PAPER_LOSS,
        flow: FlowSettings = PLAIN_FLOW,
        seed: int = 0,
        sampling: Sampling = QUICK_SAMPLING,
        memory: MemorySettings = ALL_MEMORY,
        cache: CacheSettings = NO_CACHE,
        num_validation_samples: int = 8,
        out_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        on_nonfinite: OnNonFinite = "stop",
    ) -> None:
        super().__init__()
        if (base is None) == (fresh is None):
            raise ValueError(
                f"model.base and model.fresh: exactly one must be set; got base={base!r}, fresh={fresh!r}."
            )
        if cache.dir is not None and train_text_encoder and not cache.latents:
            raise ValueError(
                "cache.latents must be true when cache.dir is set and train_text_encoder is true; got false. The "
                "embeddings of a text encoder in training cannot be cached."
            )
        if sampling.clip_skip is not None:
            raise ValueError(f"sampling.clip_skip must be null for single views; got {sampling.clip_skip}.")
        if memory.views_per_chunk is not None:
            raise ValueError(f"memory.views_per_chunk must be null for single views; got {memory.views_per_chunk}.")
        self.task = task if isinstance(task, Task) else task_from(task)
        self.backbone = fresh.build(seed) if fresh is not None else load_backbone(base, revision, vae=vae)
        named = "model.fresh" if base is None else base
        self._check_family(named, add_input, train_text_encoder)
        check_sampling(self.backbone, sampling)
        check_loss(loss, flow, snr_gamma, self.backbone.scheduler, named)
        if add_input:
            self.task.add_input(self.backbone.unet)
        self.task.check_base(self.backbone.unet, self.backbone.latent_channels)
        self.backbone.freeze()
        self.loss, self.flow = loss, flow
        if loss.zero_terminal_snr:
            self.backbone.scheduler = zero_terminal_snr(self.backbone.scheduler)
        self.train_text_encoder = train_text_encoder
        self.add_parts(seed)
        self.trained_modules.requires_grad_(True).train()
        if memory.vae_slicing:
            enable_slicing(self.backbone.vae)
        if memory.gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
            if train_text_encoder:
                self.backbone.text_encoder.gradient_checkpointing_enable()
        prefix = self.task.prompt_prefix if prompt_prefix is None else prompt_prefix
        self.inputs = SingleViewInputs(self.backbone, seed, prefix, cache, frozen_text=not train_text_encoder)
        self.out, self.out_dtype = out, getattr(torch, out_dtype)
        self.text_dropout, self.snr_gamma, self.seed, self.sampling = text_dropout, snr_gamma, seed, sampling
        self.num_validation_samples, self.on_nonfinite = num_validation_samples, on_nonfinite
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._validation_losses: list[float] = []
        self._shown: list[Tensor] = []

    def _check_family(self, base: str, add_input: bool, train_text_encoder: bool) -> None:
        if isinstance(self.backbone, StableDiffusionBase):
            return
        if not isinstance(self.backbone, TransformerBase):
            raise ValueError(
                "model.base must be one of Stable Diffusion 1 or 2, or a transformer, to train single views; got "
                f"{base}."
            )
        for name, value in (("add_input", add_input), ("train_text_encoder", train_text_encoder)):
            if value:
                raise ValueError(f"model.{name} must be false for a transformer ({base}); got true.")

    # What is trained

    def add_parts(self, seed: int) -> None:
        """Make what is trained besides the base; by default nothing. `seed` is that of the untrained weights."""

    @property
    def trained_modules(self) -> nn.ModuleDict:
        """Network and, if trained, text encoder as one module; both are registered only in `backbone`."""
        names = ("unet", "text_encoder") if self.train_text_encoder else ("unet",)
        return nn.ModuleDict({name: getattr(self.backbone, name) for name in names})

    def train(self, mode: bool = True) -> SingleViewModule:
        """Set the trained modules' mode; the frozen ones always stay in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        self.trained_modules.train(mode)
        return self

    def frozen_hashes(self) -> dict[str, str]:
        """Return a weights hash of each frozen part of the base."""
        return self.backbone.weights_hashes(["vae"] if self.train_text_encoder else ["vae", "text_encoder"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the hashes of the frozen parts."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[FROZEN_KEY] = self.frozen_hashes()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the weights were trained with other frozen parts."""
        super().on_load_checkpoint(checkpoint)
        recorded = checkpoint.get(FROZEN_KEY, {})
        for part, weights_hash in self.frozen_hashes().items():
            if recorded.get(part, weights_hash) != weights_hash:
                raise ValueError(
                    f"the base's {part} must be that of the checkpoint, with weights hash {recorded[part]}; got "
                    f"{weights_hash}."
                )

    # Loss

    def on_fit_start(self) -> None:
        """Raise ValueError if latents are to be cached but rarely repeat."""
        if self.inputs.cache_latents:
            check_latents_come_back(self.trainer.datamodule)

    def denoiser(
        self, batch: MultiViewBatch, latents: Tensor, views: Tensor
    ) -> Callable[[Tensor, Tensor, TextStates], Tensor]:
        """Make the function that predicts the noise of views with the network and the task's input channels.

        Args:
            batch: Batch of the views, as returned by `Task.single_views`.
            latents: [B, V, C, h, w] latents of the batch.
            views: [N] long, indices into the B x V views, as in `batch.images.flatten(0, 1)[views]`.

        Returns:
            Function (noisy latents [M, C, h, w], timesteps [M], text of M prompts) -> prediction [M, C, h, w], where M
            is a multiple of N.
        """
        channels = self.task.condition(batch, self.inputs.encoder(batch, latents)).channels
        channels = None if channels is None else channels.flatten(0, 1)[views]

        def predict(noisy: Tensor, timesteps: Tensor, text: TextStates) -> Tensor:
            if channels is not None:
                noisy = torch.cat([noisy, channels.repeat(len(noisy) // len(views), 1, 1, 1).to(noisy)], dim=1)
            return self.backbone.predict(noisy, timesteps, text)

        return predict

    def noise_losses(
        self, batch: MultiViewBatch, prompts: Prompts, loss: LossSettings = PAPER_LOSS
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the noise losses on timesteps and noise keyed by (seed, epoch, sample index, view).

        Args:
            batch: Images and keys; padded views are ignored.
            prompts: B x V texts: the prompts of the batch after text dropout.
            loss: Distribution of timesteps and noise.

        Returns:
            Losses [B], the means over the views of each sample, as `multiview_noise_loss` computes them; losses [N] and
            timesteps [N] of the single views.
        """
        batch = self.task.single_views(batch, self.seed)
        scheduler, views = self.backbone.scheduler, batch.view_valid.flatten().nonzero()[:, 0]
        all_latents = self.inputs.latents(batch)
        latents = all_latents.flatten(0, 1)[views]
        all_keys, all_prompts, chosen = batch.view_keys(), [prompt for row in prompts for prompt in row], views.tolist()
        keys, text = [all_keys[i] for i in chosen], _first(self.inputs.text([[all_prompts[i] for i in chosen]]))
        noise = draw_noise(loss, self.seed, batch.epoch, keys, 1, latents.shape[1:])[:, 0].to(latents.device)
        timesteps = timesteps_of(scheduler, loss, self.flow, self.seed, batch.epoch, keys)
        predict = self.denoiser(batch, all_latents, views)
        per_view = noise_loss(
            lambda noisy, timesteps: predict(noisy, timesteps, text),
            *(scheduler, latents, noise, timesteps.to(latents.device), self.snr_gamma),
            reduction="none",
        )
        padded = per_view.new_zeros(batch.view_valid.shape).masked_scatter(batch.view_valid, per_view)
        return mean_over_views(padded, batch.view_valid), per_view, timesteps

    def noise_loss(
        self, batch: MultiViewBatch, prompts: Prompts, reduction: str = "mean", loss: LossSettings = PAPER_LOSS
    ) -> Tensor:
        """Compute the loss of a batch from `noise_losses`: "mean" for a scalar, "none" for [B]."""
        losses = self.noise_losses(batch, prompts, loss)[0]
        return losses if reduction == "none" else losses.mean()

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the training loss; note it for the log of the step, in all and by quarter of the views' timesteps."""
        self.inputs.count_captions(batch)
        prompts = self.inputs.with_text_dropout(batch, self.text_dropout)
        losses, *of_views = self.noise_losses(batch, prompts, self.loss)
        self.step_means.add("train/loss", losses)
        add_quarters(self.step_means, *of_views, self.backbone.scheduler.config.num_train_timesteps)
        return losses.mean()

    # Validation

    def on_validation_start(self) -> None:
        """Clear losses and samples of the last validation."""
        self._validation_losses, self._shown = [], []

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Compute the held-out losses at fixed timesteps and noise; generate views of the first batch.

        Samples are generated here because the averaged weights are no longer in the module at the epoch's end.
        """
        batch = replace(batch, epoch=VALIDATION_EPOCH)
        losses = self.noise_loss(batch, batch.prompts, reduction="none").tolist()
        self._validation_losses.extend(compress(losses, batch.is_original))
        if batch_idx == 0 and self.num_validation_samples and not self.trainer.sanity_checking:
            views = batch.view_valid.flatten().nonzero()[: self.num_validation_samples, 0]
            self._shown = [self.generate(batch, views).cpu(), batch.images.flatten(0, 1)[views].float().cpu()]

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss, and the first rank's generated views above the real views with the same captions."""
        losses = list(chain.from_iterable(gather(self._validation_losses)))
        self.log("val/loss", sum(losses) / len(losses), prog_bar=True, sync_dist=True)
        folder = run_folder(self.trainer)  # a collective call of all ranks
        if self._shown:
            log_image(self.trainer, "val/samples", image_grid(self._shown), folder)

    @torch.no_grad()
    def generate(self, batch: MultiViewBatch, views: Tensor) -> Tensor:
        """Generate some views of a batch, with noise keyed by (seed, position in `views`).

        Args:
            batch: Batch with prompts and the task's conditions.
            views: [N] long, indices into the B x V views.

        Returns:
            [N, 3, H, W] in [-1, 1].
        """
        batch, count = self.task.single_views(batch, self.seed), len(views)
        stride = self.backbone.vae_stride
        shape = (self.backbone.latent_channels, *(side // stride for side in batch.images.shape[-2:]))
        latents = torch.zeros(*batch.view_valid.shape, *shape, device=self.device)  # single views have no known frames
        noise = [view_noise(self.seed, i, num_views=1, shape=shape)[0] for i in range(count)]
        prompts = [prompt for row in batch.prompts for prompt in row]
        text = _first(self.inputs.text([[prompts[i] for i in views.tolist()]]))
        negative = _first(self.inputs.negative_text([expand_negative_prompt(self.sampling.negative_prompt, count)]))
        guidance = guided(
            self.denoiser(batch, latents, views),
            *(text, negative, self.sampling.guidance_scale, self.sampling.guidance_rescale),
        )
        denoised = denoise(
            guidance,
            self.backbone.scheduler,
            torch.stack(noise).to(self.device),
            self.sampling.num_inference_steps,
            generators=[keyed_generator("scheduler-step", self.seed, i) for i in range(count)],
            eta=self.sampling.eta,
            timesteps=self.sampling.timesteps,
            sigmas=self.sampling.sigmas,
        )
        return self.backbone.decode_latents(denoised)

    def on_fit_end(self) -> None:
        """Write the base; with `TrainedWeightsEMA`, the module has the averaged weights by then."""
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:
            return
        remedy = "Write an earlier checkpoint, or set model.out_dtype to float32."
        check_finite(self.state_dict(), f"model.out {self.out} is not written", remedy, self.out_dtype)
        self.backbone.save_pretrained(Path(self.out), self.out_dtype)


def _first(text: TextStates) -> TextStates:
    """Return the embeddings of the one row of views."""
    return map_states(lambda one: one[0], text)
