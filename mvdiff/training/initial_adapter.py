"""Load or make the adapter that training starts from."""

from __future__ import annotations

from typing import Any

import torch

from mvdiff.class_paths import merge_settings, resolve_settings
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.adapter_config import DEFAULT_ATTENTION
from mvdiff.models.attention import ViewAttention
from mvdiff.models.bases.base import Base
from mvdiff.pipelines.model_folder import load_adapter, load_lora, model_location, read_model_info
from mvdiff.settings import AdapterSettings


def initial_adapter(
    base: Base,
    init_adapter: str | None,
    settings: AdapterSettings,
    defaults: AdapterSettings,
    seed: int,
    text_dtype: str | None = None,
) -> MultiViewAdapter:
    """Load an adapter, or make a fresh one for a base.

    Args:
        base: The base.
        init_adapter: Model folder or `mvdiff://` name; None: a fresh adapter.
        settings: Settings set by the user; a loaded adapter must have the same values.
        defaults: Settings of the task, for a fresh adapter where the user set nothing.
        seed: Random seed of fresh weights, which are the same on every rank; the global random state is not changed.

        text_dtype: Precision of the text encoder in this run; a loaded adapter must have been trained with the same.

    Raises:
        FileNotFoundError: The model folder does not exist.
        ValueError: The weights cannot be read, the adapter has other settings than the user's, or a setting is out of
            range.
    """
    if init_adapter is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return base.new_adapter(**_merged(defaults, settings))
    folder = model_location(init_adapter)
    trained_on = read_model_info(folder).base.text_dtype
    if trained_on != text_dtype:
        names = ["null" if name is None else name for name in (trained_on, text_dtype)]
        raise ValueError(
            f"model.text_dtype must be that of model.init_adapter, {names[0]}; got {names[1]}, with {folder}."
        )
    if load_lora(folder) is not None:
        raise ValueError(
            f"model.init_adapter must be a model without a LoRA of its base; got {folder} with one. Resume its "
            "training with --ckpt_path instead."
        )
    adapter = load_adapter(folder)
    for name, setting, loaded in _settings_and_loaded(settings, adapter):
        if setting != loaded:
            raise ValueError(
                f"model.adapter.{name} must be left out, or equal that of model.init_adapter, {loaded}; got {setting}, "
                f"with {folder}."
            )
    return adapter


def _merged(defaults: AdapterSettings, settings: AdapterSettings) -> dict[str, Any]:
    """Merge settings into the defaults; the attention's arguments are merged one by one if its class is the same."""
    merged = defaults.chosen() | settings.chosen()
    default_attention = {"class_path": DEFAULT_ATTENTION} | dict(defaults.attention or {})
    return merged | {"attention": merge_settings(default_attention, settings.attention)}


def _settings_and_loaded(settings: AdapterSettings, adapter: MultiViewAdapter) -> list[tuple[str, Any, Any]]:
    config, own = adapter.config, settings.chosen()
    attention = own.pop("attention", {})
    listed = [(name, value, config.get(name)) for name, value in own.items()]
    if "class_path" in attention:
        kinds = (resolve_settings(each, ViewAttention, DEFAULT_ATTENTION)[0] for each in (attention, config.attention))
        setting, loaded = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
        listed.append(("attention.class_path", setting, loaded))
    arguments = config.attention["init_args"]
    return listed + [
        (f"attention.init_args.{name}", _as_json(value), arguments.get(name))
        for name, value in attention.get("init_args", {}).items()
    ]


def _as_json(value: Any) -> Any:
    """Convert tuples to lists, as in a config file."""
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
