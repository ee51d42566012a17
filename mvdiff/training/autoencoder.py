"""Train a small AutoencoderKL on single views, such as that of the toy base (own recipe, no adversarial loss)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.files.writing import whole_folder
from mvdiff.keyed import keyed_generator
from mvdiff.models.autoencoder import load_autoencoder
from mvdiff.models.finite import check_finite
from mvdiff.models.loading import forget_source
from mvdiff.training.callbacks import gather
from mvdiff.training.nonfinite import OnNonFinite
from mvdiff.training.optimization import OptimizedModule, adamw
from mvdiff.training.schedules import LRInterval


class AutoencoderModule(OptimizedModule):
    """Train an AutoencoderKL with the loss L1 + `mse_weight` x MSE + `kl_weight` x KL per latent element.

    Args:
        out: Output folder of the trained autoencoder (diffusers layout), written when fit ends.
        vae: Arguments of a fresh `AutoencoderKL`; None with `pretrained`.
        pretrained: Folder of an AutoencoderKL to start from; None with `vae`.
        train_encoder: If False, freeze the encoder, and with it the latent space, and train the decoder only.
        kl_weight: Weight of the KL divergence from the standard normal distribution.
        mse_weight: Weight of the squared error.
        seed: Random seed of the latent noise, keyed by (seed, epoch, sample index).
        optimizer: Optimizer of the trained parameters, as `class_path` and `init_args` in YAML (default: the paper's
            AdamW, learning rate 2e-4).
        lr_scheduler: Learning-rate schedule, as `class_path` and `init_args` (default: null, a constant rate).
            `total_steps` defaults to the length of the run.
        lr_interval: How often the schedule advances: once per epoch or once per optimizer step; a schedule as long as
            the run uses steps in any case if `trainer.max_steps` ends the run first.
        on_nonfinite: What to do where a loss or a gradient is not finite: "stop" the run, or "skip" the step.

    Raises:
        ValueError: Neither or both of `vae` and `pretrained` are set, or `pretrained` is not a readable AutoencoderKL.
    """

    logged_names = ("train/l1", "train/kl", "val/psnr")

    def __init__(
        self,
        out: str,
        vae: dict[str, Any] | None = None,
        pretrained: str | None = None,
        train_encoder: bool = True,
        kl_weight: float = 1e-4,
        mse_weight: float = 1.0,
        seed: int = 0,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: LRInterval = "step",
        on_nonfinite: OnNonFinite = "stop",
    ) -> None:
        super().__init__()
        if (vae is None) == (pretrained is None):
            raise ValueError(
                f"model.vae and model.pretrained: exactly one must be set; got vae={vae!r}, pretrained={pretrained!r}."
            )
        self.vae = AutoencoderKL(**vae) if vae is not None else load_autoencoder(pretrained)
        if not isinstance(self.vae, AutoencoderKL):
            raise ValueError(
                f"model.pretrained must be an AutoencoderKL; got {type(self.vae).__name__}, in {pretrained}."
            )
        if not train_encoder:
            self.vae.encoder.requires_grad_(False)
            if self.vae.quant_conv is not None:
                self.vae.quant_conv.requires_grad_(False)
        self.out, self.train_encoder = out, train_encoder
        self.kl_weight, self.mse_weight, self.seed = kl_weight, mse_weight, seed
        self.on_nonfinite = on_nonfinite
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._moments = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares of validation latents
        self._psnr: list[float] = []

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; log its L1 and KL terms."""
        images = batch.images.flatten(0, 1)
        posterior = self.vae.encode(images).latent_dist
        shape = (batch.num_views, *posterior.mean.shape[1:])
        keys = (("autoencoder", self.seed, batch.epoch, int(index)) for index in batch.sample_index)
        noise = torch.cat([torch.randn(shape, generator=keyed_generator(*key)) for key in keys])
        latents = posterior.mean + posterior.std * noise.to(posterior.mean)
        error = (self.vae.decode(latents).sample - images).float()
        l1 = error.abs().mean()
        loss = l1 + self.mse_weight * error.square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        for name, value in (("train/l1", l1), ("train/kl", kl)):
            self.step_means.add(name, value.expand(batch.batch_size))
        return loss + self.kl_weight * kl if self.train_encoder else loss

    def on_validation_epoch_start(self) -> None:
        """Reset the latent statistics and the images' PSNR."""
        self._moments.zero_()
        self._psnr.clear()

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Measure the reconstruction PSNR in dB (images in [0, 1]) and update the latent statistics."""
        batch = batch.originals()
        if batch is None:
            return
        images = batch.images.flatten(0, 1)
        latents = self.vae.encode(images).latent_dist.mean.double()
        self._moments += torch.tensor([latents.numel(), latents.sum(), latents.square().sum()], dtype=torch.float64)
        error = (self.vae.decode(latents.float()).sample.clamp(-1, 1) - images).float()
        psnr = -10 * (error.square().mean(dim=(1, 2, 3)) / 4).log10()
        self._psnr.extend(psnr.tolist())

    def on_validation_epoch_end(self) -> None:
        """Log the mean PSNR over all images."""
        psnr = list(chain.from_iterable(gather(self._psnr)))
        self.log("val/psnr", sum(psnr) / len(psnr), prog_bar=True, sync_dist=True)

    def scaling_factor(self) -> float | None:
        """Return the factor that scales the last validation's latents to unit variance; None without a validation.

        All ranks must call this.
        """
        count, total, squares = torch.tensor(gather(self._moments.tolist()), dtype=torch.float64).sum(0).tolist()
        return round((squares / count - (total / count) ** 2) ** -0.5, 4) if count else None

    def on_fit_end(self) -> None:
        """Write the autoencoder, with the scaling factor of `scaling_factor` in its config."""
        factor = self.scaling_factor()
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:
            return
        check_finite(self.vae.state_dict(), f"model.out {self.out} is not written", "Train with a lower learning rate.")
        if factor is not None and self.train_encoder:
            self.vae.register_to_config(scaling_factor=factor)
        with whole_folder(Path(self.out)) as new:
            self.vae.save_pretrained(new)
            forget_source(new / "config.json")
