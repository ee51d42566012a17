"""Train outpainting (the paper's panorama extrapolation): attention on a frozen inpainting base.

Axes: B samples, V views, C latent channels, H W image, h w latent.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.models.inpainting import inpainting_condition, masked_images
from mvdiff.pipelines.given import GivenViews
from mvdiff.pipelines.model_folder import OUTPAINT_TASK, ModelInfo
from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
from mvdiff.training.inputs import MultiViewInputs
from mvdiff.training.multi_view import MultiViewModule


class MaskedInputs(MultiViewInputs):
    """Encode masked images, with noise and, where latents are cached, entries of their own.

    An entry's name holds a hash of the masked pixels, so another mask is another entry.
    """

    purpose = "masked-latents"


class OutpaintMultiViewModule(MultiViewModule):
    """Outpainting: `known` says what of each view is given; all are denoised and count in the loss, as in upstream.

    The UNet's input is [noisy latent | mask | masked-image latent] of each view, the same form at inference. Validation
    generates from what is given, and shows given parts as the model renders them.

    Args:
        base: Hub id, folder or `mvdiff://` name of an inpainting base.
        **kwargs: As for `MultiViewModule`. `cache_latents` is for data whose `known` is "first": random masks hardly
            come back.

    Raises:
        ValueError: Settings out of range or at odds with each other; at building, a base that does not inpaint.
    """

    pipeline_class = MVDiffusionOutpaintPipeline

    def __init__(self, base: str = "sd2-community/stable-diffusion-2-inpainting", **kwargs: Any) -> None:
        super().__init__(base=base, **kwargs)
        self.masked_inputs: MaskedInputs | None = None

    def configure_model(self) -> None:
        """Load the frozen inpainting base and build the adapter."""
        if self.unet is not None:
            return
        super().configure_model()
        settings = self.hparams
        self.masked_inputs = MaskedInputs(self.backbone, settings.seed, self.inputs.cache, settings.cache_latents)

    def on_fit_start(self) -> None:
        """Refuse to cache latents that never come back."""
        super().on_fit_start()
        known = getattr(self.trainer.datamodule, "known", None)
        if self.hparams.cache_latents and known != "first":
            raise ValueError(
                f"data.known must be 'first' when model.cache_latents is true; got {known!r}, in which hardly any mask "
                "is met twice. Set data.known, or model.cache_latents to false."
            )

    def denoiser(self, batch: MultiViewBatch, latents: Tensor, text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what predicts the noise: the UNet with mask, masked image and correspondences."""
        geometry = self.adapter.geometry(replace(batch, depths=None), self.backbone.vae_stride)
        known = required_known(batch)
        masked = self.masked_inputs.latents(replace(batch, images=masked_images(batch.images, known)))
        condition = inpainting_condition(known, masked, self.backbone.vae_stride)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            sample = torch.cat([noisy, condition.to(noisy)], dim=2)
            return self.unet(sample, timesteps, text, geometry, view_valid=batch.view_valid)

        return predict

    # What it makes

    def model_info(self) -> ModelInfo:
        """Describe the model: its rig and prompt prefix (the data module's) and its base."""
        return replace(super().model_info(), task=OUTPAINT_TASK)

    @property
    def sampling(self) -> dict[str, Any]:
        """How samples are made: given parts are shown, written and scored as the model renders them."""
        return super().sampling | {"paste_back": False}

    def given(self, batch: MultiViewBatch) -> list[GivenViews]:
        """Return what is given of each sample of a batch."""
        return [GivenViews(*sample) for sample in zip(batch.images.cpu(), required_known(batch).cpu(), strict=True)]


def required_known(batch: MultiViewBatch) -> Tensor:
    """Return what is given of a batch, [B, V, 1, H, W].

    Raises:
        ValueError: It does not say.
    """
    if batch.known is None:
        raise ValueError(
            "data must say what is given of every view; got a batch without known. Set data.known, to 'first' for the "
            "paper's form."
        )
    return batch.known
