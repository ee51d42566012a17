"""Validation of counts."""

from numbers import Integral
from typing import Any


def check_counts(**counts: Any) -> None:
    """Check that every named setting is at least 1, or None.

    Raises:
        ValueError: A setting is below 1 or no whole number.
    """
    for name, value in counts.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number; got {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
