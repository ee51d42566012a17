"""Train or finetune a base on single views: the toy base from scratch here, stage 1 of the depth task later."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import denoise, guided, noise_loss, sample_timesteps, training_noise, view_noise
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.fresh import FreshBase
from mvdiff.training.callbacks import image_grid, log_image, run_folder
from mvdiff.training.optimization import LRInterval, adamw, configure_optimizers

VALIDATION_EPOCH = -1
"""The epoch under which validation draws its fixed timesteps and noise."""

TRAINED = ("unet", "text_encoder")


class SingleViewModule(LightningModule):
    """Noise-prediction training of a whole UNet (and, if asked, its text encoder) on views taken one by one.

    A batch of B samples with V views counts as B x V independent images. The autoencoder is frozen. Timesteps, noise
    and text dropout are functions of (seed, epoch, sample index, view). The average of the trained weights is what
    validation scores and what is written.

    Args:
        out: Folder that receives the trained base (a diffusers folder, averaged weights) when fit ends.
        base: Id, folder or `mvdiff://` name of the base to go on from; None with `fresh`.
        fresh: What to build a new base of; None with `base`.
        revision: Revision of a hub id.
        vae: Another autoencoder for `base`.
        train_text_encoder: Also train the text encoder.
        text_dropout: Probability of the empty prompt, for guidance.
        ema_decay: Decay of the average of the trained weights; the first steps average faster.
        snr_gamma: Min-SNR weight, None for the plain loss.
        seed: Of everything that is drawn.
        num_inference_steps: Of the validation samples.
        guidance_scale: Of the validation samples.
        num_validation_samples: Views of the first validation batch to generate; 0 generates none.
        out_dtype: Precision of the written weights.
        optimizer: Called with the trained parameters.
        lr_scheduler: Called with the optimizer.
        lr_interval: Whether the schedule advances per epoch or step.

    Raises:
        ValueError: Neither or both of `base` and `fresh` are given.
    """

    def __init__(
        self,
        out: str,
        base: str | None = None,
        fresh: FreshBase | None = None,
        revision: str | None = None,
        vae: str | None = None,
        train_text_encoder: bool = False,
        text_dropout: float = 0.1,
        ema_decay: float = 0.999,
        snr_gamma: float | None = None,
        seed: int = 0,
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
        self.backbone = fresh.build(seed) if fresh is not None else load_backbone(base, revision, vae=vae)
        self.backbone.freeze()
        self.backbone.unet.train().requires_grad_(True)
        self.backbone.text_encoder.requires_grad_(train_text_encoder)
        self.averaged = nn.ModuleDict({name: copy.deepcopy(getattr(self.backbone, name)) for name in TRAINED})
        self.averaged.requires_grad_(False).eval()
        self.out, self.out_dtype = out, getattr(torch, out_dtype)
        self.text_dropout, self.ema_decay, self.snr_gamma, self.seed = text_dropout, ema_decay, snr_gamma, seed
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.num_validation_samples = num_validation_samples
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._shown: MultiViewBatch | None = None

    def trained_base(self) -> Backbone:
        """Return the base with its averaged weights."""
        base = self.backbone
        parts = (self.averaged["text_encoder"], base.tokenizer, self.averaged["unet"], base.scheduler)
        return Backbone(base.vae, *parts)

    def losses(self, base: Backbone, batch: MultiViewBatch, epoch: int) -> Tensor:
        """Return the loss of every view `[B * V]`, all draws keyed on `epoch`; VALIDATION_EPOCH drops no text."""
        keys = [keyed_int("view", int(i), view) for i in batch.sample_index for view in range(batch.num_views)]
        generators = [keyed_generator("latent", self.seed, epoch, key) for key in keys]
        with torch.no_grad():
            latents = base.encode_images(batch.images.flatten(0, 1), generators)
        noise = training_noise(self.seed, epoch, keys, 1, latents.shape[1:])[:, 0].to(latents.device)
        timesteps = sample_timesteps(base.scheduler.config.num_train_timesteps, self.seed, epoch, keys)
        prompts = [prompt for row in batch.prompts for prompt in row]
        if epoch != VALIDATION_EPOCH:
            prompts = ["" if self._drops_text(epoch, k) else p for k, p in zip(keys, prompts, strict=True)]
        hidden = base.encode_prompts(prompts)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return base.unet(noisy, timesteps, encoder_hidden_states=hidden).sample

        timesteps = timesteps.to(latents.device)
        return noise_loss(predict, base.scheduler, latents, noise, timesteps, self.snr_gamma, reduction="none")

    def _drops_text(self, epoch: int, key: int) -> bool:
        return float(torch.rand((), generator=keyed_generator("text", self.seed, epoch, key))) < self.text_dropout

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        loss = self.losses(self.backbone, batch, batch.epoch).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=batch.batch_size)
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the averaged weights after each optimizer step."""
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        live = [value for name in TRAINED for value in getattr(self.backbone, name).parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), live, 1 - decay)

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Log the held-out loss of the averaged weights at fixed timesteps and noise."""
        loss = self.losses(self.trained_base(), batch, VALIDATION_EPOCH)
        self.log("val/loss", loss.mean(), prog_bar=True, batch_size=len(loss), sync_dist=True)
        if batch_idx == 0:
            self._shown = batch

    def on_validation_epoch_end(self) -> None:
        """Log generated views above the real ones they were captioned after; every rank makes its own, one is shown."""
        folder = run_folder(self.trainer)
        if self._shown is None or not self.num_validation_samples or self.trainer.sanity_checking:
            return
        real = self._shown.images.flatten(0, 1)[: self.num_validation_samples]
        prompts = [prompt for row in self._shown.prompts for prompt in row][: len(real)]
        rows = [self.generate(prompts, (real.shape[2], real.shape[3])).cpu(), real.float().cpu()]
        log_image(self.trainer, "val/samples", image_grid(rows), folder)

    @torch.no_grad()
    def generate(self, prompts: list[str], size: tuple[int, int]) -> Tensor:
        """Generate one view per prompt with the averaged weights, noise keyed on (seed, place in the list).

        Args:
            prompts: N texts.
            size: (height, width) in pixels.

        Returns:
            `[N, 3, H, W]` in [-1, 1].
        """
        base = self.trained_base()
        shape = (base.latent_channels, size[0] // base.vae_stride, size[1] // base.vae_stride)
        noise = torch.stack([view_noise(self.seed, i, num_views=1, shape=shape)[0] for i in range(len(prompts))])

        def predict(latents: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
            return base.unet(latents, timesteps, encoder_hidden_states=hidden).sample

        text, empty = base.encode_prompts(prompts), base.encode_prompts([""] * len(prompts))
        guidance = guided(predict, text, empty, self.guidance_scale)
        latents = denoise(guidance, base.scheduler, noise.to(self.device), self.num_inference_steps)
        return base.decode_latents(latents)

    def on_fit_end(self) -> None:
        """Write the base with its averaged weights."""
        if self.trainer.is_global_zero:
            self.trained_base().save_pretrained(Path(self.out), self.out_dtype)

    def configure_optimizers(self):
        """Return optimizer and schedule for UNet and, where trained, text encoder."""
        parameters = [value for name in TRAINED for value in getattr(self.backbone, name).parameters()]
        return configure_optimizers(parameters, self.optimizer, self.lr_scheduler, self.lr_interval)
