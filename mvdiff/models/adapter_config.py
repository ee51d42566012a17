"""The format of an adapter's config, and the upgrade from older formats.

Format 1 has no `format_version`; the attention's settings are top-level keys beside `variant`: "paper", or "upstream"
for converted checkpoints of the 2023 release. Format 2 nests them under `attention`: `class_path` and `init_args`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 2
DEFAULT_ATTENTION = "mvdiff.models.attention.CorrespondenceAwareAttention"
RELEASED_ATTENTION = "mvdiff.interop.attention.UpstreamAttention"
"""The attention of the 2023 release's published weights."""
_PAPER_SETTINGS = ("kernel_size", "head_dim", "wavelengths", "min_overlap", "neighbours")
_FLAT = (*_PAPER_SETTINGS, "variant")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a config of any known format to the arguments of `MultiViewAdapter`.

    Args:
        config: Config from an adapter's config.json or a training checkpoint.

    Raises:
        ValueError: The format or the variant is unknown to this version of mvdiff, or keys of both formats are mixed.
    """
    config = dict(config)
    version = config.pop("format_version", None)
    if version == FORMAT_VERSION:
        return config
    if version is not None:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise ValueError(
            f"format_version of an adapter's config must be {FORMAT_VERSION} or absent; got {version!r}."
            f"{' Update mvdiff.' if newer else ''}"
        )
    flat = {name: config.pop(name) for name in _FLAT if name in config}
    if "attention" in config:
        if flat:
            raise ValueError(
                f"an adapter's config with attention must not have top-level settings of it; got {', '.join(flat)}."
            )
        return config
    variant = flat.pop("variant", "paper")
    if variant == "paper":
        return config | {"attention": {"class_path": DEFAULT_ATTENTION, "init_args": flat}}
    if variant != "upstream":
        raise ValueError(f"variant of an adapter's config must be paper or upstream; got {variant!r}.")
    depth = bool(config.get("residual", False))
    released = {"head_dim", "min_overlap"} if depth else {"head_dim", "kernel_size"}
    settings = {name: value for name, value in ({"min_overlap": 0.01} | flat).items() if name in released}
    if flat.get("neighbours") is not None:
        settings["neighbours"] = flat["neighbours"]  # the class rejects it with an error
    return config | {"attention": {"class_path": RELEASED_ATTENTION, "init_args": {"depth": depth} | settings}}
