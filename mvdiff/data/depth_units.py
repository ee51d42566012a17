"""The setting `depth_units_per_metre` of layouts whose files do not name their unit."""

from __future__ import annotations


def unit_setting(cls: type, units_per_metre: float) -> str:
    """Return the advice to set `depth_units_per_metre` of a layout's class."""
    settings = f"{{depth_units_per_metre: {units_per_metre:g}}}"
    return (
        f"set depth_units_per_metre to {units_per_metre:g}: class_path {cls.__module__}.{cls.__name__} with init_args "
        f"{settings} in a YAML file for --data, or as the data module's `source`"
    )
