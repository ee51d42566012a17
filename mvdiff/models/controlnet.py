"""ControlNets for depth: loading, making, their control image, and a UNet under their control.

Axes: B samples, V views, N = B * V, C latent channels, H W image, h w latent, L text tokens, D text width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from mvdiff.models.conditioning import depth_condition
from mvdiff.models.loading import PACKAGED, load_strictly, packaged_folder, resolve_folder
from mvdiff.models.multiview_unet import MultiViewUNet

_PATTERNS = ["config.json", "diffusion_pytorch_model*.safetensors*"]
_LEVELS = (16, 32, 96, 256)  # widths of the stages that bring the control image to the latents' size


def load_controlnet(
    pretrained_model_name_or_path: str | Path, revision: str | None = None, dtype: torch.dtype | None = None
) -> ControlNetModel:
    """Load a ControlNet onto the CPU and freeze it.

    Args:
        pretrained_model_name_or_path: Folder, hub id ("owner/name[@revision]") or packaged name.
        revision: Branch, tag or commit on the hub.
        dtype: Weight precision; default float32.

    Raises:
        FileNotFoundError: There is no ControlNet at that place.
        ValueError: A file cannot be read, or its weights belong to another model.
    """
    folder = controlnet_location(pretrained_model_name_or_path, revision)
    return load_strictly(ControlNetModel, folder, dtype).requires_grad_(False).eval()


def controlnet_location(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a ControlNet, downloading it from the hub if it is not cached.

    Args:
        name: See `load_controlnet`.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: There is no ControlNet at that place.
    """
    if str(name).startswith(PACKAGED):
        return packaged_folder(str(name), "controlnet", "diffusion_pytorch_model.safetensors")
    return resolve_folder(name, revision, "controlnet", _PATTERNS)


def controlnet_from_unet(unet: UNet2DConditionModel, vae_stride: int, seed: int = 0) -> ControlNetModel:
    """Make an untrained ControlNet for a UNet: a copy of its encoder, whose outputs are zero (Zhang et al. 2023).

    Args:
        unet: UNet of a text-to-image base.
        vae_stride: Pixels per latent cell along each side; a control image has the size of the views.
        seed: Seed of the weights that the UNet does not have.
    """
    levels = _LEVELS[: vae_stride.bit_length()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=levels)


def check_controlnet(controlnet: ControlNetModel, unet: UNet2DConditionModel, channels: int, stride: int) -> None:
    """Raise ValueError unless a ControlNet fits a base's UNet, its latents and its autoencoder's stride.

    Args:
        controlnet: The ControlNet.
        unet: UNet of the base; an inpainting base has other input channels than the ControlNet.
        channels: Number of latent channels.
        stride: Pixels per latent cell along each side.
    """
    config = controlnet.config
    expected = {"in_channels": channels}
    names = ("block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim")
    expected |= {name: unet.config[name] for name in names}
    for name, value in expected.items():
        got, value = (list(one) if isinstance(one, tuple | list) else one for one in (config[name], value))
        if got != value:
            raise ValueError(
                f"{name} of the controlnet must be {value}, to fit the base; got {got}. Choose one for the same "
                "version of Stable Diffusion."
            )
    reduction = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    if reduction != stride:
        raise ValueError(
            f"controlnet must reduce its image by {stride}, the autoencoder's stride; got a reduction by {reduction}."
        )


def control_images(depths: Tensor) -> Tensor:
    """Compute the control image of a depth ControlNet: inverse depth from 0 (farthest) to 1 (nearest) in each frame.

    This is the range of MiDaS's pictures that depth ControlNets are trained on. Pixels without depth count as farthest.

    Args:
        depths: [B, V, H, W] z-depth in metres, 0 where unknown.

    Returns:
        [B, V, 3, H, W] float32 in [0, 1], three equal channels.

    Example:
        >>> control_images(torch.tensor([[[[1.0, 2.0], [4.0, 0.0]]]]))[0, 0, 0].round(decimals=2).tolist()
        [[1.0, 0.33000001311302185], [0.0, 0.0]]
    """
    return ((depth_condition(depths, 1).clamp_min(-1) + 1) / 2).expand(-1, -1, 3, -1, -1)


def controlled(
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel,
    latents: Tensor,
    timesteps: Tensor,
    text: Tensor,
    control: Tensor,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Predict the noise of single views with a UNet under the control of a ControlNet.

    Args:
        unet: UNet of the base.
        controlnet: ControlNet that fits the UNet; it sees the first input channels, the noisy latents.
        latents: [N, channels, h, w] noisy latents and the task's other channels.
        timesteps: [N].
        text: [N, L, D].
        control: [N, 3, H, W] control images, see `control_images`.
        scale: Factor of the control, or [N] factors; 0 leaves the UNet alone.

    Returns:
        [N, C, h, w].
    """
    scale = torch.as_tensor(scale, dtype=latents.dtype, device=latents.device).expand(len(latents))[:, None, None, None]
    noisy = latents[:, : controlnet.config.in_channels]
    down, mid = controlnet(noisy, timesteps, text, controlnet_cond=control.to(latents), return_dict=False)
    added = {"down_block_additional_residuals": [value * scale for value in down]}
    added["mid_block_additional_residual"] = mid * scale
    return unet(latents, timesteps, text, **added).sample


class ControlledUNet(nn.Module):
    """A UNet with a ControlNet, called like `MultiViewUNet`, each view by itself.

    Args:
        unet: The UNet, whose adapter is not used.
        controlnet: ControlNet that fits the UNet.
        depths: [B, V, H, W] z-depth in metres; views without any depth have no control.
        scale: Factor of the control; 1 is that of the training.
    """

    def __init__(self, unet: MultiViewUNet, controlnet: ControlNetModel, depths: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.unet, self.adapter, self.controlnet = unet.unet, unet.adapter, controlnet
        self.views_per_chunk = unet.views_per_chunk
        self.control = control_images(depths).flatten(0, 1)
        self.scale = scale * (torch.isfinite(depths) & (depths > 0)).flatten(2).any(2).flatten()

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **context: Any) -> Tensor:
        """Predict noise; see `MultiViewUNet.forward`, whose other arguments are not used.

        Args:
            sample: [n B, V, channels, h, w] noisy latents and the task's other channels, for n passes of guidance.
            timestep: [n B].
            encoder_hidden_states: [n B, V, L, D].
            **context: Not used.
        """
        batch, num_views = sample.shape[:2]
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(batch).repeat_interleave(num_views)
        latents, text = sample.flatten(0, 1), encoder_hidden_states.flatten(0, 1)
        passes = len(latents) // len(self.control)
        rows = (latents, timesteps, text, self.control.repeat(passes, 1, 1, 1), self.scale.repeat(passes))
        chunks = zip(*(values.split(self.views_per_chunk or len(latents)) for values in rows), strict=True)
        predicted = torch.cat([controlled(self.unet, self.controlnet, *chunk) for chunk in chunks])
        return predicted.unflatten(0, (batch, num_views))
