"""MultiViewAdapter: what multi-view training trains, as a diffusers model of its own (config and safetensors)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from torch import nn

from mvdiff.geometry.correspondence import neighbour_table
from mvdiff.models.attention import CorrespondenceAwareAttention
from mvdiff.models.conditioning import ImageConditionBlocks
from mvdiff.models.geometry_cache import DEFAULT_MIN_OVERLAP, DEFAULT_WAVELENGTHS
from mvdiff.models.loading import open_strictly, resolve_folder
from mvdiff.models.upstream.attention import UpstreamAttention

VARIANTS = ("paper", "upstream")
MID_PLACES = ("after_first_resnet", "after_mid_block")
_BLOCKS = (CrossAttnDownBlock2D, DownBlock2D, UNetMidBlock2DCrossAttn, CrossAttnUpBlock2D, UpBlock2D)


class MultiViewAdapter(ModelMixin, ConfigMixin):
    """One correspondence-aware attention per block of a UNet; everything else of the model stays the base's.

    Args:
        down_channels: channels of the attention in each down block, finest first.
        mid_channels: channels of the attention in the mid block.
        up_channels: channels of the attention in each up block, coarsest first.
        kernel_size: K of the K x K neighbourhood a geometry for this adapter is built with.
        head_dim: width of an attention head.
        variant: "paper" (see `CorrespondenceAwareAttention`) or "upstream", which gives the numbers of published
            checkpoints (see `UpstreamAttention`); `residual` then says that it is the depth model.
        mid_place: "after_first_resnet" (panorama) or "after_mid_block" (depth).
        wavelengths: (shortest, longest) of the displacement encoding, in cells; not used by the upstream variant.
        min_overlap: share of its image that a view must see of another to attend to it, in [0, 1]; a geometry for this
            adapter is built with it (see `overlapping_neighbours`).
        residual: whether a residual convolution block follows each attention (the paper's depth model).
        image_condition: whether there are blocks that bring given frames in (see `ImageConditionBlocks`).
        latent_channels: of the latents of given frames.
        neighbours: for each view the views it attends to, counted from 0, in place of those that `min_overlap` chooses;
            None for those. An adapter with such lists is one for as many views.

    Example:
        >>> adapter = MultiViewAdapter([32, 64], 64, [64, 32])
        >>> adapter.config.kernel_size
        3
    """

    @register_to_config
    def __init__(
        self,
        down_channels: Sequence[int] = (320, 640, 1280, 1280),
        mid_channels: int = 1280,
        up_channels: Sequence[int] = (1280, 1280, 640, 320),
        kernel_size: int = 3,
        head_dim: int = 32,
        variant: str = "paper",
        mid_place: str = "after_first_resnet",
        wavelengths: Sequence[float] = DEFAULT_WAVELENGTHS,
        min_overlap: float = DEFAULT_MIN_OVERLAP,
        neighbours: Sequence[Sequence[int]] | None = None,
        residual: bool = False,
        image_condition: bool = False,
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}; got {variant!r}.")
        if mid_place not in MID_PLACES:
            raise ValueError(f"mid_place must be one of {MID_PLACES}; got {mid_place!r}.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive; got {kernel_size}.")
        if not 0 <= min_overlap <= 1:
            raise ValueError(f"min_overlap must lie in [0, 1]; got {min_overlap}. The default is 0.01.")
        if variant == "upstream":
            _check_upstream(kernel_size, residual, neighbours)
        if neighbours is not None:
            neighbour_table(neighbours, len(neighbours))

        def block(channels: int) -> CorrespondenceAwareAttention:
            if variant == "upstream":
                return UpstreamAttention(channels, head_dim, depth=residual)
            return CorrespondenceAwareAttention(channels, head_dim, tuple(wavelengths), residual)

        self.down_blocks = nn.ModuleList(block(channels) for channels in down_channels)
        self.mid_block = block(mid_channels)
        self.up_blocks = nn.ModuleList(block(channels) for channels in up_channels)
        self.condition_blocks = (
            ImageConditionBlocks(latent_channels, down_channels, mid_channels, up_channels) if image_condition else None
        )

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, variant: str = "paper", **settings: Any) -> MultiViewAdapter:
        """Make a fresh adapter for `unet`: with it, the multi-view model is `unet`, view by view.

        Args:
            unet: the base's UNet.
            variant: see the class.
            **settings: `kernel_size`, `head_dim`, `mid_place`, `wavelengths`, `min_overlap`, `neighbours`, `residual`,
                `image_condition` of the class.

        Raises:
            ValueError: if the UNet has other parts than those the multi-view model runs, or a setting is out of range.
        """
        return cls(**unet_channels(unet), latent_channels=unet.config.out_channels, variant=variant, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> MultiViewAdapter:
        """Load an adapter; unlike with diffusers' own loading, every key must be there and none may be left over.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, or a hub id.
            **kwargs: as for any diffusers model: `dtype` (default float32), `revision`, `subfolder`, ...

        Raises:
            FileNotFoundError: if there is no adapter.
            ValueError: if the weights cannot be read or are not those the config describes.
        """
        revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", None)
        folder = resolve_folder(pretrained_model_name_or_path, revision, "adapter", ["*.json", "*.safetensors"])
        folder = folder / subfolder if subfolder else folder
        kwargs = {"low_cpu_mem_usage": False} | kwargs | {"output_loading_info": True}
        dtype = kwargs.pop("torch_dtype", None)
        dtype = kwargs.pop("dtype", dtype)  # cast here: diffusers tells from the first tensor whether all need it
        opener = super().from_pretrained
        adapter = open_strictly(cls.__name__, folder, lambda: opener(str(folder), **kwargs))
        return adapter if dtype is None else adapter.to(dtype)

    def set_attention_enabled(self, enabled: bool) -> None:
        """Switch all attention off or on again; feed-forward layers stay (a control: what attention itself gives)."""
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            block.attention_enabled = enabled


def _check_upstream(kernel_size: int, depth: bool, neighbours: Sequence[Sequence[int]] | None) -> None:
    if depth and kernel_size != 1:
        raise ValueError(
            f"kernel_size must be 1 for a depth adapter of the upstream variant; got {kernel_size}. Set it to 1."
        )
    if neighbours is not None:
        raise ValueError(
            "neighbours must be left out for the upstream variant, whose views attend to the ones before and after "
            "them; got lists. Use the paper variant."
        )


def unet_channels(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Return `down_channels`, `mid_channels` and `up_channels` of a UNet: what an adapter for it must have.

    Raises:
        ValueError: if the UNet has other parts than those that `MultiViewUNet` runs.
    """
    _check_unet(unet)
    return {
        "down_channels": [block.resnets[-1].out_channels for block in unet.down_blocks],
        "mid_channels": unet.mid_block.resnets[0].out_channels,
        "up_channels": [block.resnets[-1].out_channels for block in unet.up_blocks],
    }


def _check_unet(unet: UNet2DConditionModel) -> None:
    """Raise ValueError where a UNet has other parts than those that `MultiViewUNet` runs."""
    if unet.mid_block is None:  # as in some distilled UNets
        raise ValueError(
            f"unet.mid_block must be a {UNetMidBlock2DCrossAttn.__name__}; got none. Use a base whose UNet has a mid "
            "block: views attend to each other there, too."
        )
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if type(block) not in _BLOCKS:
            names = ", ".join(kind.__name__ for kind in _BLOCKS)
            raise ValueError(f"unet blocks must be of {names}; got {type(block).__name__}. Use a UNet of these blocks.")
    for name in ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type"):
        if unet.config.get(name) is not None:
            raise ValueError(f"unet.config.{name} must be None; got {unet.config[name]!r}. Use a text-to-image UNet.")
    for level, block in enumerate(unet.down_blocks[:-1]):
        if block.downsamplers is None:
            raise ValueError(f"unet.down_blocks[{level}] must have a downsampler; got none.")
