"""Validation of numbers that come from YAML files and other untyped settings."""

from __future__ import annotations

from math import isfinite
from numbers import Real
from typing import Any


def check_number(name: str, value: Any, positive: bool = True) -> float:
    """Return a setting that is a finite number above 0, as a float.

    Args:
        name: Name of the setting.
        value: Its value, of any type.
        positive: Refuse 0 and negative numbers, too.

    Raises:
        ValueError: It is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}{_as_yaml_reads(value)}.")
    if positive and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}.")
    return float(value)


def _as_yaml_reads(text: Any) -> str:
    """Explain a number such as 1e3, which YAML takes for text."""
    try:
        number = float(text) if isinstance(text, str) else None
    except ValueError:
        return ""
    return "" if number is None or not isfinite(number) else f" (YAML reads it as text; write {number!r} instead)"
