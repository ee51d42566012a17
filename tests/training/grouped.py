"""Settings of a module by their own names, put into their groups."""

import inspect
from dataclasses import fields
from typing import Any

from mvdiff.models.attention import CorrespondenceAwareAttention
from mvdiff.settings import AdapterSettings, LoraSettings, LossSettings, MemorySettings, Sampling

GROUPS = {
    "adapter": AdapterSettings,
    "sampling": Sampling,
    "memory": MemorySettings,
    "loss": LossSettings,
    "lora": LoraSettings,
}
OF_ATTENTION = set(inspect.signature(CorrespondenceAwareAttention).parameters) - {"channels"}


def grouped(**settings: Any) -> dict[str, Any]:
    """Return arguments of a module: `head_dim=8` becomes `adapter=AdapterSettings(attention=...)`, and so on."""
    attention = {name: settings.pop(name) for name in sorted(OF_ATTENTION & settings.keys())}
    attention = {name: value for name, value in attention.items() if value is not None}
    if attention:
        settings["attention"] = {"init_args": attention}
    arguments = {}
    for group, kind in GROUPS.items():
        own = {field.name for field in fields(kind)} & settings.keys()
        if own:
            arguments[group] = kind(**{name: settings.pop(name) for name in own})
    return settings | arguments
