"""Sizes in bytes as people write them: `1GB`, `256 MiB`, `0`."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for end, base in (("B", 1000), ("", 1000), ("iB", 1024))
}


def parse_size(name: str, text: str | int) -> int:
    """Return a number of bytes.

    Args:
        name: Setting, named in errors.
        text: Number with a unit, such as "1GB" (10^9) or "1GiB" (2^30), or a number of bytes.

    Raises:
        ValueError: It is no size.

    Example:
        >>> parse_size("size", "1.5GB"), parse_size("size", "256 MiB"), parse_size("size", 10)
        (1500000000, 268435456, 10)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = next((unit for unit in _UNITS if match and unit.lower() == match[2].lower()), None)
    if match is None or unit is None:
        raise ValueError(f"{name} must be a size such as 1GB or 256MiB; got {text!r}.")
    return int(float(match[1]) * _UNITS[unit])


def size_text(count: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size_text(1_500_000_000), size_text(512)
        ('1.5 GB', '512 B')
    """
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} B"
