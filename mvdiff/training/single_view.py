"""Train or finetune a base on single views: the toy base from scratch here, stage 1 of the depth task later.

Axes: B samples, V views, N views chosen from the B x V of a batch, C latent channels, h w latent.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import denoise, guided, mean_over_views, noise_loss, sample_timesteps, training_noise, view_noise
from mvdiff.models.autoencoder import enable_slicing
from mvdiff.models.backbone import load_backbone
from mvdiff.models.fresh import FreshBase
from mvdiff.training.cache import TensorCache, check_cache_settings, check_latents_come_back
from mvdiff.training.callbacks import image_grid, log_image, run_folder
from mvdiff.training.inputs import SingleViewInputs
from mvdiff.training.optimization import LRInterval, adamw, configure_optimizers
from mvdiff.training.trained_part import TrainedPartModule

VALIDATION_EPOCH = -1
"""The epoch under which validation draws its fixed timesteps and noise."""

FROZEN_KEY = "mvdiff_frozen"
"""Where a checkpoint keeps the hashes of the frozen parts that it was trained beside."""


class SingleViewModule(TrainedPartModule):
    """Noise-prediction training of a whole UNet (and, if asked, its text encoder) on views taken one by one.

    A batch of B samples with V views counts as B x V independent images. Timesteps, noise and text dropout are
    functions of (seed, epoch, sample index, view). The rest of the base is frozen: no gradients, not in the optimizer,
    not in checkpoints. With `mvdiff.training.ema.TrainedWeightsEMA` among the callbacks, the average of the trained
    weights is what validation scores and what is written.

    Args:
        out: Folder that receives the trained base (a diffusers folder) when fit ends.
        base: Id, folder or `mvdiff://` name of the base to go on from; None with `fresh`.
        fresh: What to build a new base of; None with `base`.
        revision: Revision of a hub id.
        vae: Another autoencoder for `base`.
        train_text_encoder: Also train the text encoder.
        text_dropout: Probability of the empty prompt, for guidance.
        snr_gamma: Min-SNR weight, None for the plain loss.
        seed: Of everything that is drawn.
        gradient_checkpointing: Trade time for memory in what is trained.
        vae_slicing: Encode and decode view by view.
        cache_dir: Folder for text embeddings (unless `train_text_encoder`) and latents; None computes them each time.
        cache_latents: Also keep latents in `cache_dir`; only for yaws from a finite list.
        num_inference_steps: Of the validation samples.
        guidance_scale: Of the validation samples.
        num_validation_samples: Views of the first validation batch to generate; 0 generates none.
        out_dtype: Precision of the written weights.
        optimizer: Called with the trained parameters.
        lr_scheduler: Called with the optimizer.
        lr_interval: Whether the schedule advances per epoch or step.

    Raises:
        ValueError: Neither or both of `base` and `fresh` are given, or `cache_dir` has nothing to keep.
    """

    trained_part = "trained_modules"

    def __init__(
        self,
        out: str,
        base: str | None = None,
        fresh: FreshBase | None = None,
        revision: str | None = None,
        vae: str | None = None,
        train_text_encoder: bool = False,
        text_dropout: float = 0.1,
        snr_gamma: float | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        vae_slicing: bool = False,
        cache_dir: str | None = None,
        cache_latents: bool = False,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        num_validation_samples: int = 8,
        out_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: LRInterval = "step",
    ) -> None:
        super().__init__()
        if (base is None) == (fresh is None):
            raise ValueError(
                f"model.base and model.fresh: exactly one must be set; got base={base!r}, fresh={fresh!r}. "
                "Name a base to finetune, or say what to build."
            )
        check_cache_settings(cache_dir, cache_latents)
        if cache_dir is not None and train_text_encoder and not cache_latents:
            raise ValueError(
                "cache_latents must be true when cache_dir is set and train_text_encoder is true; got false: the "
                "embeddings of a text encoder in training cannot be kept. Set model.cache_latents or leave out "
                "model.cache_dir."
            )
        self.backbone = fresh.build(seed) if fresh is not None else load_backbone(base, revision, vae=vae)
        self.backbone.freeze()
        self.train_text_encoder = train_text_encoder
        self.trained_modules.requires_grad_(True).train()
        if vae_slicing:
            enable_slicing(self.backbone.vae)
        if gradient_checkpointing:
            self.backbone.unet.enable_gradient_checkpointing()
            if train_text_encoder:
                self.backbone.text_encoder.gradient_checkpointing_enable()
        cache = None if cache_dir is None else TensorCache(cache_dir)
        self.inputs = SingleViewInputs(self.backbone, seed, cache, cache_latents)
        self.out, self.out_dtype = out, getattr(torch, out_dtype)
        self.text_dropout, self.snr_gamma, self.seed = text_dropout, snr_gamma, seed
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.num_validation_samples = num_validation_samples
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._shown: list[Tensor] = []

    # What is trained

    @property
    def trained_modules(self) -> nn.ModuleDict:
        """UNet and, where trained, text encoder as one module; they are registered in `backbone` alone."""
        names = ("unet", "text_encoder") if self.train_text_encoder else ("unet",)
        return nn.ModuleDict({name: getattr(self.backbone, name) for name in names})

    def train(self, mode: bool = True) -> SingleViewModule:
        """Set the trained modules' mode; the frozen ones always stay in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        self.trained_modules.train(mode)
        return self

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimize the trained modules alone."""
        return configure_optimizers(
            self.trained_modules.parameters(), self.optimizer, self.lr_scheduler, self.lr_interval
        )

    def frozen_hashes(self) -> dict[str, str]:
        """Hash the weights of each frozen part of the base."""
        return self.backbone.weights_hashes(["vae"] if self.train_text_encoder else ["vae", "text_encoder"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which frozen parts the weights belong to."""
        checkpoint[FROZEN_KEY] = self.frozen_hashes()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained beside other frozen parts; other trained ones are refused at loading."""
        known = checkpoint.get(FROZEN_KEY, {})
        for part, here in self.frozen_hashes().items():
            if known.get(part, here) != here:
                raise ValueError(
                    f"the base's {part} must be that of the checkpoint, with weights {known[part]}; got {here}. "
                    "Set model.base, model.vae and model.fresh as in training."
                )

    # Loss

    def on_fit_start(self) -> None:
        """Refuse to cache latents that never come back."""
        if self.inputs.cache_latents:
            check_latents_come_back(self.trainer.datamodule)

    def model_input(self, noisy_latents: Tensor, batch: MultiViewBatch, views: Tensor) -> Tensor:
        """Compose what the UNet takes.

        Args:
            noisy_latents: [N, C, h, w].
            batch: What the views are of.
            views: [N] which of its B x V views they are, as in `batch.images.flatten(0, 1)[views]`.

        Returns:
            [N, in_channels, h, w].
        """
        return noisy_latents

    def text(self, prompts: list[str]) -> Tensor:
        """Embed N prompts, [N, L, D]."""
        return self.backbone.encode_prompts(prompts) if self.train_text_encoder else self.inputs.text([prompts])[0]

    def noise_loss(self, batch: MultiViewBatch, prompts: list[list[str]], reduction: str = "mean") -> Tensor:
        """Compute the noise loss on timesteps and noise keyed by (seed, epoch, sample index, view).

        Views are averaged within their sample, then samples within the batch, as `multiview_noise_loss` does.

        Args:
            batch: Images and keys; padded views are left out.
            prompts: B x V texts (those of the batch, some perhaps dropped).
            reduction: "mean" for a scalar, "none" for [B].
        """
        scheduler, views = self.backbone.scheduler, batch.view_valid.flatten().nonzero()[:, 0]
        latents = self.inputs.latents(batch).flatten(0, 1)[views]
        all_keys, all_prompts = self.inputs.view_keys(batch), [prompt for row in prompts for prompt in row]
        keys, text = [all_keys[i] for i in views.tolist()], self.text([all_prompts[i] for i in views.tolist()])
        noise = training_noise(self.seed, batch.epoch, keys, 1, latents.shape[1:])[:, 0].to(latents.device)
        timesteps = sample_timesteps(scheduler.config.num_train_timesteps, self.seed, batch.epoch, keys)
        timesteps = timesteps.to(latents.device)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            sample, channels = self.model_input(noisy, batch, views), self.backbone.unet.config.in_channels
            if sample.shape[1] != channels:
                raise ValueError(
                    f"model.base must have a UNet of {sample.shape[1]} input channels, what {type(self).__name__} "
                    f"gives it; got {channels}. Name another base, or the module of this base's task."
                )
            return self.backbone.unet(sample, timesteps, encoder_hidden_states=text).sample

        per_view = noise_loss(predict, scheduler, latents, noise, timesteps, self.snr_gamma, reduction="none")
        padded = per_view.new_zeros(batch.view_valid.shape).masked_scatter(batch.view_valid, per_view)
        per_sample = mean_over_views(padded, batch.view_valid)
        return per_sample if reduction == "none" else per_sample.mean()

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return and log the training loss."""
        loss = self.noise_loss(batch, self.inputs.with_text_dropout(batch, self.text_dropout))
        self.log("train/loss", loss, prog_bar=True, batch_size=batch.batch_size)
        return loss

    # Validation

    def on_validation_start(self) -> None:
        """Forget the samples of the last validation."""
        self._shown = []

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Log the held-out loss at fixed timesteps and noise; generate views of the first batch.

        Samples are made here, not at the epoch's end: by then the average has left the module.
        """
        batch = dataclasses.replace(batch, epoch=VALIDATION_EPOCH)
        loss = self.noise_loss(batch, batch.prompts)
        self.log("val/loss", loss, prog_bar=True, batch_size=batch.batch_size, sync_dist=True)
        if batch_idx == 0 and self.num_validation_samples and not self.trainer.sanity_checking:
            views = batch.view_valid.flatten().nonzero()[: self.num_validation_samples, 0]
            self._shown = [self.generate(batch, views).cpu(), batch.images.flatten(0, 1)[views].float().cpu()]

    def on_validation_epoch_end(self) -> None:
        """Log generated views above the real ones they were captioned after; every rank makes its own, one is shown."""
        folder = run_folder(self.trainer)  # all ranks ask
        if self._shown:
            log_image(self.trainer, "val/samples", image_grid(self._shown), folder)

    @torch.no_grad()
    def generate(self, batch: MultiViewBatch, views: Tensor) -> Tensor:
        """Generate views from their prompts, noise keyed on (seed, place in the list).

        Args:
            batch: Prompts, image size, and what `model_input` takes of it.
            views: [N] which of its B x V views.

        Returns:
            `[N, 3, H, W]` in [-1, 1].
        """
        base, prompts = self.backbone, [prompt for row in batch.prompts for prompt in row]
        shape = (base.latent_channels, *(side // base.vae_stride for side in batch.images.shape[-2:]))
        noise = torch.stack([view_noise(self.seed, i, num_views=1, shape=shape)[0] for i in range(len(views))])

        def predict(latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
            sample = self.model_input(latents, batch, views.repeat(len(latents) // len(views)))
            return base.unet(sample, timesteps, encoder_hidden_states=text).sample

        text, empty = self.text([prompts[i] for i in views.tolist()]), self.text([""] * len(views))
        guidance = guided(predict, text, empty, self.guidance_scale)
        latents = denoise(guidance, base.scheduler, noise.to(self.device), self.num_inference_steps)
        return base.decode_latents(latents)

    def on_fit_end(self) -> None:
        """Write the base; with `TrainedWeightsEMA` the module holds the average by now."""
        if self.trainer.is_global_zero:
            self.backbone.save_pretrained(Path(self.out), self.out_dtype)
