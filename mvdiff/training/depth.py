"""Train the depth task (the paper's ScanNet model): stage 1 on single frames, stage 2 on sequences of frames.

Axes: B samples, V views, N views chosen from the B x V of a batch, C latent channels, H W image, h w latent.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.depth_overlap import depth_overlap_psnr
from mvdiff.models.conditioning import (
    add_depth_input,
    check_depth_input,
    depth_condition,
    given_frames,
    image_condition,
)
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.frame_folders import generate_frame_samples
from mvdiff.pipelines.model_folder import DEPTH_TASK, BaseReference, ModelInfo
from mvdiff.training.inputs import MultiViewInputs
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.sample_writing import write_frame_reference
from mvdiff.training.single_view import SingleViewModule


class DepthSingleViewModule(SingleViewModule):
    """Stage 1: finetune a whole UNet on single frames with the depth of each as an input channel.

    Args:
        *args: As for `SingleViewModule`.
        add_depth_input: Give a base without depth a channel for it, with zero weights: training starts from what the
            base does. False for a depth base.
        **kwargs: As for `SingleViewModule`.

    Raises:
        ValueError: The UNet has no channel for the depth.
    """

    def __init__(self, *args: Any, add_depth_input: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if add_depth_input:
            _widen(self.backbone.unet, self.backbone.latent_channels)
        check_depth_input(self.backbone.unet, self.backbone.latent_channels)

    def model_input(self, noisy_latents: Tensor, batch: MultiViewBatch, views: Tensor) -> Tensor:
        """Join the depth channel on: [N, C, h, w] -> [N, C + 1, h, w]."""
        depth = depth_channel(batch, self.backbone.vae_stride, noisy_latents)
        return torch.cat([noisy_latents, depth.flatten(0, 1)[views]], dim=1)


class DepthInputs(MultiViewInputs):
    """Prepare batches of frames with depth and pose.

    Cached latents are kept frame by frame: a frame comes back in other windows of its scene.
    """

    def _latents(self, batch: MultiViewBatch, i: int) -> Tensor:
        if not self.cache_latents:
            return super()._latents(batch, i)
        return torch.stack([self._frame_latent(image) for image in batch.images[i]])

    def _frame_latent(self, image: Tensor) -> Tensor:
        """Encode an image [3, H, W] to [C, h, w], or take it from the cache."""
        digest = hashlib.blake2b(image.cpu().contiguous().numpy(), digest_size=20).hexdigest()
        keys = ("frame", self.seed, str(list(image.shape)), digest)
        return self.cache.fetch(lambda: self._encode(image[None], *keys)[0], self.purpose, self._encoder("vae"), *keys)


class DepthMultiViewModule(MultiViewModule):
    """Stage 2: train attention, residual and image-condition blocks on sequences; the depth base stays frozen.

    A batch mixes samples to generate (`known` is 0 everywhere) with samples to interpolate (`known` is 1 on the given
    frames). A sample to generate takes exactly nothing from the image-condition blocks, as when it is generated: what
    the model meets at inference is what it was trained on. Given frames are denoised like the others, and all valid
    views count in the loss, the given ones included, as upstream counts outpainting's (the paper does not say).

    Validation logs the held-out loss of all samples (`val/loss`) and of each mode (`val/loss_generation`,
    `val/loss_interpolation`) where the data has it, and generates the first samples of the split, each in its own mode
    (`val/samples`, `val/overlap_psnr` of their consecutive frames).

    Args:
        base: Hub id or folder of a base whose UNet takes the depth channel: the one stage 1 wrote, or a depth base.
        residual: Whether a residual block follows each attention (paper: yes). This and `image_condition` shape the
            adapter as the settings of `MultiViewModule` do; where `min_overlap` and `mid_place` are None, a fresh
            adapter has 0.3 of both directions and "after_mid_block".
        image_condition: Whether frames can be given (paper: yes).
        **kwargs: As for `MultiViewModule`.

    Raises:
        ValueError: Settings out of range or at odds with each other; at building, a base without depth.
    """

    inputs_class = DepthInputs
    pipeline_class = MVDiffusionDepthPipeline
    adapter_settings = (*MultiViewModule.adapter_settings, "residual", "image_condition")

    def __init__(
        self,
        base: str = "sd2-community/stable-diffusion-2-depth",
        residual: bool | None = None,
        image_condition: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(base=base, **kwargs)
        if self.hparams.neighbours is not None:
            raise ValueError(
                "neighbours must be left out for frames with depth; got lists. Frames overlap differently in every "
                "sample: set min_overlap."
            )

    def denoiser(self, batch: MultiViewBatch, latents: Tensor, text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what predicts the noise: the UNet with depth, correspondences and the given frames, see the class."""
        required_depths(batch)
        geometry = self.adapter.geometry(batch, self.backbone.vae_stride)
        depth = depth_channel(batch, self.backbone.vae_stride, latents)
        condition, active = image_condition(latents, given_frames(batch.known, batch.view_valid))
        if self.adapter.condition_blocks is None and not bool(active.any()):
            condition = active = None

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.unet(
                torch.cat([noisy, depth], dim=2),
                timesteps,
                text,
                geometry,
                view_valid=batch.view_valid,
                condition=condition,
                condition_active=active,
            )

        return predict

    def modes(self, batch: MultiViewBatch) -> list[str]:
        """Tell samples to interpolate, which have given frames, from samples to generate."""
        interpolated = given_frames(batch.known, batch.view_valid).any(1)
        return ["interpolation" if given else "generation" for given in interpolated.tolist()]

    # What it makes

    def model_info(self) -> ModelInfo:
        """Describe the model: the size of its frames and its prompt prefix (the data module's) and its base.

        Raises:
            ValueError: The data module does not say what frames it gives.
        """
        data, settings = self.trainer.datamodule, self.hparams
        missing = [name for name in ("height", "width", "prompt_prefix") if not hasattr(data, name)]
        if missing:
            raise ValueError(
                f"data must be a LightningDataModule with `height`, `width` and `prompt_prefix`; got "
                f"{type(data).__name__} without {', '.join(missing)}. Derive yours from "
                "mvdiff.data.scannet_datamodule.ScanNetDataModule."
            )
        base = BaseReference(settings.base, settings.revision, self.backbone.weights_hash(), settings.vae)
        return ModelInfo(None, data.prompt_prefix, base, DEPTH_TASK, data.height, data.width)

    def show(self, batch: MultiViewBatch) -> list[tuple[int, float, Tensor]]:
        """Generate a validation batch, given frames given, and score consecutive frames.

        Returns:
            For each sample its index, its overlap PSNR (mean of pairs; NaN where no pair overlaps), and its valid
            views [V, 3, H, W] in [-1, 1] on the CPU, given ones as the model renders them.
        """
        images = self.pipeline()(
            batch.prompts,
            required_depths(batch),
            batch.K,
            batch.R,
            batch.t,
            view_valid=batch.view_valid,
            images=batch.images,
            known=batch.known,
            **self.sampling,
            sample_ids=batch.sample_id,
            prompt_prefix="",  # the prompts of a batch carry it already
            output_type="pt",
        ).images
        shown = []
        for i, views in enumerate(2 * images.cpu() - 1):
            frames = [value[i].cpu() for value in (batch.depths, batch.K, batch.R, batch.t)]
            valid = batch.view_valid[i].cpu()
            score = depth_overlap_psnr(views, *frames, view_valid=valid)
            shown.append((int(batch.sample_index[i]), score["overlap_psnr_mean_of_pairs"], views[valid]))
        return shown

    def write_real(self, root: Path, batch: MultiViewBatch) -> None:
        """Write the real frames of a batch, their depths and cameras; complete folders are kept."""
        write_frame_reference(root, batch, self.trainer.datamodule.prompt_prefix, overwrite=self.hparams.overwrite)

    def write_generated(self, root: Path, batch: MultiViewBatch) -> None:
        """Generate a batch, given frames given (but written as the model renders them); complete folders are kept."""
        generate_frame_samples(self.pipeline(), batch, root, overwrite=self.hparams.overwrite, **self.sampling)


def required_depths(batch: MultiViewBatch) -> Tensor:
    """Return a batch's depths [B, V, H, W] in metres.

    Raises:
        ValueError: It has none.
    """
    if batch.depths is None:
        raise ValueError(
            "data must give the depth of every frame; got a batch without depths. Use a data module of frames with "
            "depth, such as mvdiff.data.scannet_datamodule.ScanNetDataModule."
        )
    return batch.depths


def depth_channel(batch: MultiViewBatch, vae_stride: int, latents: Tensor) -> Tensor:
    """Return the depth channel [B, V, 1, h, w] that goes with latents [..., h, w], in their dtype and on their device.

    Raises:
        ValueError: The images' size is no multiple of the autoencoder's stride.
    """
    depth = depth_condition(required_depths(batch), vae_stride)
    if depth.shape[-2:] != latents.shape[-2:]:
        raise ValueError(
            f"data.height and data.width must be multiples of {vae_stride}, the autoencoder's stride; got "
            f"{list(batch.images.shape[-2:])}. Choose another size."
        )
    return depth.to(latents)


def _widen(unet: Any, latent_channels: int) -> None:
    if unet.config.in_channels != latent_channels:
        raise ValueError(
            f"add_depth_input must be false for a base that takes more than latents; got true, with a UNet of "
            f"{unet.config.in_channels} input channels."
        )
    add_depth_input(unet)
