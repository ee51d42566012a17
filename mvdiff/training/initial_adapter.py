"""The adapter that a training starts from: a loaded one, or fresh weights."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from mvdiff.class_paths import merge_settings
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.model_folder import model_location

_ADAPTER_SETTINGS = ("mid_place", "residual", "image_condition")


def initial_adapter(
    unet: UNet2DConditionModel,
    init_adapter: str | None,
    chosen: Mapping[str, Any],
    defaults: Mapping[str, Any],
    seed: int,
) -> MultiViewAdapter:
    """Load an adapter, or make a fresh one for a UNet.

    Args:
        unet: The base's.
        init_adapter: Folder of an adapter, model folder or its `mvdiff://` name; None for a fresh one.
        chosen: Settings that shape the adapter, those that were set; a loaded adapter must have them.
        defaults: The task's, for a fresh adapter where nothing was chosen.
        seed: Of fresh weights, which are the same on every rank; other draws are left untouched.

    Raises:
        FileNotFoundError: There is no such adapter.
        ValueError: Its weights cannot be read, or it has other settings than those chosen.
    """
    if init_adapter is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            attention = merge_settings(defaults.get("attention"), _of_attention(chosen))
            return MultiViewAdapter.from_unet(unet, **{**defaults, **_of_adapter(chosen), "attention": attention})
    folder = model_location(init_adapter)
    folder = folder / "adapter" if (folder / "adapter").is_dir() else folder
    adapter = MultiViewAdapter.from_pretrained(folder)
    there = adapter.config.attention["init_args"] | {name: adapter.config[name] for name in _ADAPTER_SETTINGS}
    for name, value in chosen.items():
        if _listed(there.get(name)) != _listed(value):
            raise ValueError(
                f"model.{name} must be left out or be that of model.init_adapter, {there.get(name)}; "
                f"got {value}, with {folder}. Start without init_adapter to change it."
            )
    return adapter


def _of_adapter(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name in _ADAPTER_SETTINGS}


def _of_attention(chosen: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in chosen.items() if name not in _ADAPTER_SETTINGS}
    return {"init_args": arguments} if arguments else {}


def _listed(value: Any) -> Any:
    """Return tuples as the lists that a config file makes of them."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
