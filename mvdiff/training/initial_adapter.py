"""The adapter that a training starts from: a loaded one, or fresh weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from mvdiff.class_paths import merge_settings, resolve_settings
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.adapter_config import DEFAULT_ATTENTION
from mvdiff.models.attention import ViewAttention
from mvdiff.pipelines.model_folder import load_adapter, model_location, read_model_info
from mvdiff.settings import AdapterSettings


def initial_adapter(
    unet: UNet2DConditionModel,
    init_adapter: str | None,
    settings: AdapterSettings,
    defaults: AdapterSettings,
    seed: int,
) -> MultiViewAdapter:
    """Load an adapter, or make a fresh one for a UNet.

    Args:
        unet: The base's.
        init_adapter: Model folder or its `mvdiff://` name; None for a fresh one.
        settings: Settings that a user chose; a loaded adapter must have them.
        defaults: The task's settings, for a fresh adapter where nothing was chosen.
        seed: Seed of fresh weights, which are the same on every rank; other draws are left untouched.

    Raises:
        FileNotFoundError: There is no such model folder.
        ValueError: Its weights cannot be read, it has other settings than those chosen, or a setting is out of range.
    """
    if init_adapter is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MultiViewAdapter.from_unet(unet, **_merged(defaults, settings))
    folder = model_location(init_adapter)
    read_model_info(folder)  # an adapter alone does not say what it is for
    adapter = load_adapter(folder)
    for name, wanted, there in _chosen_beside_loaded(settings, adapter):
        if wanted != there:
            raise ValueError(
                f"model.adapter.{name} must be left out or be that of model.init_adapter, {there}; got {wanted}, with "
                f"{folder}."
            )
    return adapter


def _merged(defaults: AdapterSettings, settings: AdapterSettings) -> dict[str, Any]:
    """Lay chosen settings over the defaults; arguments of the attention one by one, unless it is another class."""
    merged = defaults.chosen() | settings.chosen()
    default_attention = {"class_path": DEFAULT_ATTENTION} | dict(defaults.attention or {})
    return merged | {"attention": merge_settings(default_attention, settings.attention)}


def _chosen_beside_loaded(settings: AdapterSettings, adapter: MultiViewAdapter) -> list[tuple[str, Any, Any]]:
    config, chosen = adapter.config, settings.chosen()
    attention = chosen.pop("attention", {})
    listed = [(name, value, config[name]) for name, value in chosen.items()]
    if "class_path" in attention:
        kinds = (resolve_settings(each, ViewAttention, DEFAULT_ATTENTION)[0] for each in (attention, config.attention))
        wanted, there = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
        listed.append(("attention.class_path", wanted, there))
    arguments = config.attention["init_args"]
    return listed + [
        (f"attention.init_args.{name}", _as_json(value), arguments.get(name))
        for name, value in attention.get("init_args", {}).items()
    ]


def _as_json(value: Any) -> Any:
    """Return tuples as the lists that a config file makes of them."""
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
