"""Train a depth ControlNet for a text-to-image base, on the noise loss of single frames.

Axes: N selected views of a batch, C latent channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.files.writing import whole_folder
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.models.controlnet import control_images, controlled, controlnet_from_unet
from mvdiff.models.finite import check_finite
from mvdiff.models.loading import forget_source
from mvdiff.training.single_view import SingleViewModule


class ControlNetModule(SingleViewModule):
    """Train a depth ControlNet from a copy of a base's encoder; the base stays as it is (Zhang et al. 2023).

    Data, noise, timesteps and text dropout are those of `SingleViewModule`. An inpainting base that was trained from
    the same text-to-image base can use the ControlNet, as `mvdiff.methods.controlnet_inpainting` does.

    Args:
        out: Output folder of the ControlNet, which `diffusers.ControlNetModel.from_pretrained` loads.
        base: Folder, Hugging Face hub id or `mvdiff://` name of a text-to-image base.
        prompt_prefix: Text put before every prompt.
        **options: See `SingleViewModule`.
    """

    def __init__(self, out: str, base: str, prompt_prefix: str = "", **options: Any) -> None:
        super().__init__(out, task="panorama", base=base, prompt_prefix=prompt_prefix, **options)

    def add_parts(self, seed: int) -> None:
        """Make the untrained ControlNet, which changes nothing.

        Raises:
            ValueError: The base has no UNet of Stable Diffusion 1 or 2.
        """
        if not isinstance(self.backbone, StableDiffusionBase):
            raise ValueError(
                "model.base must be one of Stable Diffusion 1 or 2 to train a ControlNet; got a "
                f"{type(self.backbone).__name__}."
            )
        self.controlnet = controlnet_from_unet(self.backbone.unet, self.backbone.vae_stride, seed)

    @property
    def trained_modules(self) -> nn.ModuleDict:
        """The ControlNet."""
        return nn.ModuleDict({"controlnet": self.controlnet})

    def frozen_hashes(self) -> dict[str, str]:
        """Return a weights hash of each part of the base."""
        return self.backbone.weights_hashes()

    def denoiser(
        self, batch: MultiViewBatch, latents: Tensor, views: Tensor
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Make the function that predicts the noise of views under the control of their depths.

        Raises:
            ValueError: The batch has no depths.
        """
        if batch.depths is None:
            raise ValueError(
                "depths are required to train a depth ControlNet; got a batch without depths. Use a data module of "
                "frames with depth, such as mvdiff.data.scannet_datamodule.ScanNetDataModule."
            )
        control = control_images(batch.depths).flatten(0, 1)[views]

        def predict(noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
            passes = len(noisy) // len(views)
            rows = (noisy, timesteps, text, control.repeat(passes, 1, 1, 1))
            return controlled(self.backbone.unet, self.controlnet, *rows)

        return predict

    def on_fit_end(self) -> None:
        """Write the ControlNet; with `TrainedWeightsEMA`, the module has the averaged weights by then."""
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:
            return
        remedy = "Write an earlier checkpoint, or set model.out_dtype to float32."
        check_finite(self.state_dict(), f"model.out {self.out} is not written", remedy, self.out_dtype)
        with whole_folder(Path(self.out)) as new:
            deepcopy(self.controlnet).to(self.out_dtype).save_pretrained(str(new))
            forget_source(new / "config.json")
