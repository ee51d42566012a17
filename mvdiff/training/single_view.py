"""Train or finetune a base on single views: the toy base from scratch here, stage 1 of the depth task later."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import noise_loss, sample_timesteps, training_noise
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.backbone import load_backbone
from mvdiff.models.fresh import FreshBase
from mvdiff.training.optimization import LRInterval, adamw, configure_optimizers

VALIDATION_EPOCH = -1  # the key under which validation draws its fixed timesteps and noise


class SingleViewModule(LightningModule):
    """Noise-prediction training of a whole UNet (and, if asked, its text encoder) on views taken one by one.

    A batch of B samples with V views counts as B x V independent images. The autoencoder is frozen. Timesteps, noise and
    text dropout are functions of (seed, epoch, sample index, view).

    Args:
        out: Folder that receives the trained base (a diffusers folder, averaged weights) when fit ends.
        base: Id, folder or `mvdiff://` name of the base to go on from; None with `fresh`.
        fresh: What to build a new base of; None with `base`.
        revision: Revision of a hub id.
        train_text_encoder: Also train the text encoder.
        text_dropout: Probability of the empty prompt, for guidance.
        ema_decay: Decay of the average of the trained weights; the first steps average faster.
        snr_gamma: Min-SNR weight, None for the plain loss.
        seed: Of everything that is drawn.
        optimizer: Called with the trained parameters.
        lr_scheduler: Called with the optimizer.
        interval: Whether the schedule advances per epoch or step.
    """

    def __init__(
        self,
        out: str,
        base: str | None = None,
        fresh: FreshBase | None = None,
        revision: str | None = None,
        train_text_encoder: bool = False,
        text_dropout: float = 0.1,
        ema_decay: float = 0.999,
        snr_gamma: float | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        interval: LRInterval = "step",
    ) -> None:
        super().__init__()
        if (base is None) == (fresh is None):
            raise ValueError(
                f"model.base and model.fresh: exactly one must be set; got base={base!r}, fresh={fresh!r}. "
                "Name a base to finetune, or say what to build."
            )
        if fresh is not None:
            parts = fresh.build(seed)
        else:
            backbone = load_backbone(base, revision=revision)
            parts = {
                name: getattr(backbone, name) for name in ("unet", "text_encoder", "tokenizer", "vae", "scheduler")
            }
        self.unet: nn.Module = parts["unet"].train().requires_grad_(True)
        self.text_encoder: nn.Module = parts["text_encoder"].requires_grad_(train_text_encoder)
        self.vae: nn.Module = parts["vae"].eval().requires_grad_(False)
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self.averaged = copy.deepcopy(nn.ModuleDict({"unet": self.unet, "text_encoder": self.text_encoder}))
        self.averaged.requires_grad_(False).eval()
        self.out, self.text_dropout, self.ema_decay = out, text_dropout, ema_decay
        self.snr_gamma, self.seed = snr_gamma, seed
        self.optimizer, self.lr_scheduler, self.interval = optimizer, lr_scheduler, interval

    def forward(self, unet: nn.Module, text_encoder: nn.Module, batch: MultiViewBatch, epoch: int) -> Tensor:
        """Return the loss of every view `[B * V]` under the given weights, all draws keyed on `epoch`."""
        views = [(int(index), view) for index in batch.sample_index for view in range(batch.num_views)]
        keys = [keyed_int("single-view", index, view) for index, view in views]
        with torch.no_grad():
            latents = self._encode(batch.images.flatten(0, 1), epoch, keys)
        noise = training_noise(self.seed, epoch, keys, 1, latents.shape[1:])[:, 0].to(latents)
        timesteps = sample_timesteps(self.scheduler.config.num_train_timesteps, self.seed, epoch, keys)
        prompts = [prompt for row in batch.prompts for prompt in row]
        if epoch != VALIDATION_EPOCH:
            dropped = [
                keyed_int("text-dropout", self.seed, epoch, key) % 2**20 < self.text_dropout * 2**20 for key in keys
            ]
            prompts = ["" if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        hidden = text_encoder(tokens.input_ids.to(latents.device)).last_hidden_state

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return unet(noisy, t, encoder_hidden_states=hidden).sample

        return noise_loss(
            predict, self.scheduler, latents, noise, timesteps.to(latents.device), self.snr_gamma, reduction="none"
        )

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        loss = self(self.unet, self.text_encoder, batch, batch.epoch).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the averaged weights after each optimizer step."""
        step = self.global_step
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        live = [*self.unet.parameters(), *self.text_encoder.parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), live, 1 - decay)

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Log the held-out loss of the averaged weights at fixed timesteps and noise."""
        loss = self(self.averaged["unet"], self.averaged["text_encoder"], batch, VALIDATION_EPOCH)
        self.log("val/loss", loss.mean(), prog_bar=True, batch_size=len(loss), sync_dist=True)

    def on_fit_end(self) -> None:
        """Write the base with its averaged weights."""
        if self.trainer.is_global_zero:
            self.save_base(self.out)

    def save_base(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a diffusers folder of the averaged weights in `dtype`."""
        averaged = copy.deepcopy(self.averaged).to(dtype)
        StableDiffusionPipeline(
            vae=copy.deepcopy(self.vae).to(dtype),
            unet=averaged["unet"],
            text_encoder=averaged["text_encoder"],
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)

    def configure_optimizers(self):
        """Return optimizer and schedule for UNet and, where trained, text encoder."""
        trained = [*self.unet.parameters(), *self.text_encoder.parameters()]
        return configure_optimizers(trained, self.optimizer, self.lr_scheduler, self.interval)

    def _encode(self, images: Tensor, epoch: int, keys: list[int]) -> Tensor:
        """Sample latents of images `[N, 3, H, W]`, each from a generator of its own, and scale them."""
        posterior = self.vae.encode(images).latent_dist
        draws = [
            torch.randn(posterior.mean.shape[1:], generator=keyed_generator("latent", self.seed, epoch, key))
            for key in keys
        ]
        latents = posterior.mean + posterior.std * torch.stack(draws).to(posterior.mean)
        return latents * self.vae.config.scaling_factor
