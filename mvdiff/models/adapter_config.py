"""The format of an adapter's config, and how older ones become it.

Format 1, without `format_version`, kept the settings of the attention flat, beside a `variant`: "paper", or "upstream"
for converted checkpoints of the 2023 release. Format 2 names the attention's class and keeps its settings with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 2
DEFAULT_ATTENTION = "mvdiff.models.attention.CorrespondenceAwareAttention"
_RELEASED_ATTENTION = "mvdiff.interop.attention.UpstreamAttention"
_PAPER_SETTINGS = ("kernel_size", "head_dim", "wavelengths", "min_overlap", "neighbours")
_FLAT = (*_PAPER_SETTINGS, "variant")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `MultiViewAdapter` that a config of any known format describes.

    Args:
        config: What an adapter's config.json or a checkpoint holds.

    Raises:
        ValueError: The format is none that this version of mvdiff knows, or the variant is unknown.
    """
    config = dict(config)
    version = config.pop("format_version", None)
    if version == FORMAT_VERSION:
        return config
    if version is not None:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise ValueError(
            f"format_version of an adapter's config must be {FORMAT_VERSION} or left out; got {version!r}."
            f"{' Update mvdiff.' if newer else ''}"
        )
    flat = {name: config.pop(name) for name in _FLAT if name in config}
    if "attention" in config:
        if flat:
            raise ValueError(f"an adapter's config must have attention alone; got {', '.join(flat)} beside it.")
        return config
    variant = flat.pop("variant", "paper")
    if variant == "paper":
        return config | {"attention": {"class_path": DEFAULT_ATTENTION, "init_args": flat}}
    if variant != "upstream":
        raise ValueError(f"variant of an adapter's config must be paper or upstream; got {variant!r}.")
    depth = bool(config.get("residual", False))
    kept = {"head_dim", "min_overlap"} if depth else {"head_dim", "kernel_size"}
    settings = {name: value for name, value in ({"min_overlap": 0.01} | flat).items() if name in kept}
    if flat.get("neighbours") is not None:
        settings["neighbours"] = flat["neighbours"]  # refused by the class
    return config | {"attention": {"class_path": _RELEASED_ATTENTION, "init_args": {"depth": depth} | settings}}
