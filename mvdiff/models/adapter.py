"""MultiViewAdapter: the trained part of a multi-view model, saved as a diffusers model (config and safetensors)."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
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

from mvdiff.batch import MultiViewBatch
from mvdiff.class_paths import resolve_settings
from mvdiff.models.adapter_config import DEFAULT_ATTENTION, FORMAT_VERSION, upgrade_config
from mvdiff.models.attention import Level, MultiViewGeometry, ViewAttention
from mvdiff.models.conditioning import ImageConditionBlocks
from mvdiff.models.loading import check_promise, open_strictly, read_object, resolve_folder
from mvdiff.models.residual import ResidualBlock
from mvdiff.settings import CacheSettings, MidPlace

_BLOCKS = (CrossAttnDownBlock2D, DownBlock2D, UNetMidBlock2DCrossAttn, CrossAttnUpBlock2D, UpBlock2D)


class MultiViewAdapter(ModelMixin, ConfigMixin):
    """The trained layers of a multi-view model: one attention across views per block of a frozen UNet.

    Args:
        down_channels: Channels of the attention in each down block, finest first.
        mid_channels: Channels of the attention in the mid block.
        up_channels: Channels of the attention in each up block, coarsest first.
        attention: `class_path` of a `ViewAttention` in mvdiff or in a module of `allow_plugins`, and its `init_args`;
            either may be left out. The config stores all arguments, defaults included. Default:
            `CorrespondenceAwareAttention`, the paper's.
        mid_place: Place of the mid block's attention: "after_first_resnet" (panorama) or "after_mid_block" (depth).
        residual: Add a residual convolution block after each attention (the paper's depth model).
        image_condition: Add blocks that take known frames as input (see `ImageConditionBlocks`).
        latent_channels: Latent channels of known frames.
        sites: Places in a transformer, in place of those in a UNet: `after`, the names of the blocks that the
            attentions follow; `channels` of each; and `cell`, latent cells per token along each side. The channels of a
            UNet's blocks are ignored then.

    Raises:
        ValueError: A setting is out of range, or the attention's class or arguments are not allowed.

    Example:
        >>> adapter = MultiViewAdapter([32, 64], 64, [64, 32], {"init_args": {"kernel_size": 1}})
        >>> adapter.config.attention["init_args"]["kernel_size"], adapter.config.attention["init_args"]["head_dim"]
        (1, 32)
    """

    geometry_cache_bytes: int = CacheSettings.geometry_bytes
    """Size of the geometry cache in bytes, encodings included; unless it is 0, the latest geometry is always cached."""

    @register_to_config
    def __init__(
        self,
        down_channels: Sequence[int] = (320, 640, 1280, 1280),
        mid_channels: int = 1280,
        up_channels: Sequence[int] = (1280, 1280, 640, 320),
        attention: Mapping[str, Any] | None = None,
        mid_place: str = "after_first_resnet",
        residual: bool = False,
        image_condition: bool = False,
        latent_channels: int = 4,
        sites: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if sites is not None:
            down_channels, mid_channels, up_channels, sites = (), None, (), _checked_sites(sites)
            self.register_to_config(down_channels=[], mid_channels=None, up_channels=[], sites=sites)
        if mid_place not in get_args(MidPlace):
            raise ValueError(f"mid_place must be one of {get_args(MidPlace)}; got {mid_place!r}.")
        for name, value in (("residual", residual), ("image_condition", image_condition)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false; got {value!r}.")
        if isinstance(latent_channels, bool) or not isinstance(latent_channels, int) or latent_channels < 1:
            raise ValueError(f"latent_channels must be a whole number from 1; got {latent_channels!r}.")
        kind, arguments, settings = resolve_settings(attention, ViewAttention, DEFAULT_ATTENTION)
        self.register_to_config(attention=settings, format_version=FORMAT_VERSION)

        def block(channels: int) -> ViewAttention:
            attention = kind(channels, **arguments)
            if residual:
                attention.residual = ResidualBlock(channels)
            return attention

        self.down_blocks = nn.ModuleList(block(channels) for channels in down_channels)
        self.mid_block = None if mid_channels is None else block(mid_channels)
        self.up_blocks = nn.ModuleList(block(channels) for channels in up_channels)
        self.site_blocks = nn.ModuleList(block(channels) for channels in sites["channels"]) if sites else None
        self.condition_blocks = (
            ImageConditionBlocks(latent_channels, down_channels, mid_channels, up_channels) if image_condition else None
        )
        self._repeated_blocks = [kind.__name__]  # for `compile_repeated_blocks`
        self._geometries: OrderedDict[tuple[bytes, torch.device], MultiViewGeometry] = OrderedDict()

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, attention: Mapping[str, Any] | None = None, **settings: Any
    ) -> MultiViewAdapter:
        """Make a fresh adapter for a UNet; with it, the multi-view model computes what the UNet does for each view.

        Args:
            unet: UNet that gives the channels.
            attention: See `MultiViewAdapter`.
            **settings: Other arguments of `MultiViewAdapter`.

        Raises:
            ValueError: The UNet has parts that `MultiViewUNet` does not support, or a setting is out of range.
        """
        return cls(**unet_channels(unet), latent_channels=unet.config.out_channels, attention=attention, **settings)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> Any:
        """Make an adapter with fresh weights from a config of any format version."""
        return super().from_config(_arguments(config), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> MultiViewAdapter:
        """Load an adapter; unlike in diffusers, missing and unexpected weights are errors.

        Args:
            pretrained_model_name_or_path: Folder written by `save_pretrained`, or a hub id.
            **kwargs: Arguments of diffusers' `from_pretrained`: `dtype` (default float32), `revision`, `subfolder`, ...

        Raises:
            FileNotFoundError: The folder has no adapter.
            ValueError: The weights cannot be read, or do not match the config.
        """
        revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", None)
        folder = resolve_folder(pretrained_model_name_or_path, revision, "adapter", ["*.json", "*.safetensors"])
        folder = folder / subfolder if subfolder else folder
        _check_config(folder / "config.json")
        kwargs = {"low_cpu_mem_usage": False} | kwargs | {"output_loading_info": True}
        dtype = kwargs.pop("torch_dtype", None)
        dtype = kwargs.pop("dtype", dtype)  # cast here: diffusers decides by the first tensor whether to cast at all
        opener = super().from_pretrained
        check_promise(cls.__name__, folder, lambda: cls.from_config(read_object(folder / "config.json")))
        adapter = open_strictly(cls.__name__, folder, lambda: opener(str(folder), **kwargs))
        return adapter if dtype is None else adapter.to(dtype)

    @property
    def blocks(self) -> list[ViewAttention]:
        """All blocks of attention, in the order in which they run."""
        if self.site_blocks is not None:
            return list(self.site_blocks)
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def set_attention_enabled(self, enabled: bool) -> None:
        """Enable or disable attention in all blocks; feed-forward layers stay on (a control for attention's effect)."""
        for block in self.blocks:
            block.attention_enabled = enabled

    def geometry(self, batch: MultiViewBatch, vae_stride: int) -> MultiViewGeometry | None:
        """Build the correspondences between the views of a batch, on the device that the adapter runs on.

        Geometry that depends on the cameras alone is cached, with its encodings, up to `geometry_cache_bytes`; the
        least recently used is dropped first. Geometry from depth is not cached.

        Args:
            batch: Batch whose cameras, image size, `view_valid` and, if correspondences come from depth, `depths` are
                used.
            vae_stride: Pixels per latent cell along each side.

        Returns:
            The taps of each level; None for samples of a single view.

        Raises:
            ValueError: The attention class cannot build the taps of this batch.
        """
        if batch.num_views == 1:
            return None
        height, width = batch.images.shape[-2:]
        sites = self.config.sites
        cells = [sites["cell"]] if sites else [2**level for level in range(len(self.config.down_channels))]
        levels = [
            Level(-(-height // stride), -(-width // stride), stride) for stride in (vae_stride * cell for cell in cells)
        ]
        offloaded = self._offloaded_to()
        device = self.device if offloaded is None else offloaded
        with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
            key = self.blocks[0].taps_key(batch, levels)
            if key is None:
                if batch.depths is not None:
                    batch = replace(batch, depths=batch.depths.to(device))
                return self._built(batch, levels).to(device)
            home = device if offloaded is None else torch.device("cpu")
            geometry = self._cached(key, batch, levels, home)
            return geometry if offloaded is None else geometry.to(device)

    def _built(self, batch: MultiViewBatch, levels: Sequence[Level]) -> MultiViewGeometry:
        return MultiViewGeometry(tuple(self.blocks[0].build_taps(batch, levels)))

    def _cached(
        self, key: bytes, batch: MultiViewBatch, levels: Sequence[Level], device: torch.device
    ) -> MultiViewGeometry:
        cache = self._geometries
        for other in [entry for entry in cache if entry[1] != device]:  # the model has moved
            del cache[other]
        if (key, device) not in cache:
            with torch.inference_mode(False):  # training cannot use tensors that validation made in inference mode
                batch = replace(batch, K=batch.K.clone(), R=batch.R.clone(), t=batch.t.clone())
                cache[key, device] = self._built(batch, levels).to(device)
        cache.move_to_end((key, device))
        geometry = cache[key, device]
        least = 1 if self.geometry_cache_bytes else 0
        while len(cache) > least and sum(entry.nbytes for entry in cache.values()) > self.geometry_cache_bytes:
            cache.popitem(last=False)
        return geometry

    def _offloaded_to(self) -> torch.device | None:
        """Return the device that accelerate's hooks move weights to for a call; None without hooks."""
        for module in self.modules():
            device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
        return None


def _checked_sites(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain places of a transformer; raise ValueError if they are not what `MultiViewAdapter` says."""
    sites = dict(sites) if isinstance(sites, Mapping) else {}
    after, channels, cell = (sites.get(name) for name in ("after", "channels", "cell"))
    whole = all(
        isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in [cell, *(channels or ())]
    )
    if set(sites) != {"after", "channels", "cell"} or not after or len(after) != len(channels or ()) or not whole:
        raise ValueError(
            f"sites of an adapter must be names `after`, as many `channels`, and `cell`, whole numbers; got {sites!r}."
        )
    return {"after": [str(name) for name in after], "channels": list(channels), "cell": cell}


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a config of any format; unknown keys are an error in the current format only."""
    arguments, names = upgrade_config(config), list(inspect.signature(MultiViewAdapter).parameters)
    unknown = [name for name in arguments if name not in names and not name.startswith("_")]
    if unknown and config.get("format_version") == FORMAT_VERSION:
        raise ValueError(f"keys of an adapter's config must be among {', '.join(names)}; got {', '.join(unknown)}.")
    return arguments


def _check_config(path: Path) -> None:
    """Raise ValueError if a config is no JSON object or names an attention class that is not allowed."""
    if not path.is_file():
        return
    try:
        attention = _arguments(read_object(path)).get("attention")
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')}, in {path}.") from error
    resolve_settings(attention, ViewAttention, DEFAULT_ATTENTION, str(path))


def unet_channels(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Return the `down_channels`, `mid_channels` and `up_channels` of an adapter for a UNet.

    Raises:
        ValueError: The UNet has parts that `MultiViewUNet` does not support.
    """
    if unet.mid_block is None:  # as in some distilled UNets
        raise ValueError(f"unet.mid_block must be a {UNetMidBlock2DCrossAttn.__name__}; got none.")
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        if type(block) not in _BLOCKS:
            names = ", ".join(kind.__name__ for kind in _BLOCKS)
            raise ValueError(f"unet blocks must be among {names}; got {type(block).__name__}.")
    sized = unet.config.get("addition_embed_type") == "text_time" and getattr(unet, "add_embedding", None) is not None
    refused = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
    for name in (*refused, "time_cond_proj_dim"):
        if unet.config.get(name) is not None and not (sized and name == "addition_embed_type"):
            raise ValueError(f"unet.config.{name} must be None; got {unet.config[name]!r}. Use a text-to-image UNet.")
    for level, block in enumerate(unet.down_blocks[:-1]):
        if block.downsamplers is None:
            raise ValueError(f"unet.down_blocks[{level}] must have a downsampler; got none.")
    return {
        "down_channels": [block.resnets[-1].out_channels for block in unet.down_blocks],
        "mid_channels": unet.mid_block.resnets[0].out_channels,
        "up_channels": [block.resnets[-1].out_channels for block in unet.up_blocks],
    }
