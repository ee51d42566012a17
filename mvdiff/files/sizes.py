"""Sizes, counts and durations as people write them: `1GB`, `2 devices`, `3 h 12 min`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

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


def plural(count: int, noun: str) -> str:
    """Write a count with its noun.

    >>> plural(1, "device"), plural(2, "device"), plural(2, "batch"), plural(2, "epoch")
    ('1 device', '2 devices', '2 batches', '2 epochs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' * noun.endswith('tch') or 's'}"


def duration_text(seconds: float) -> str:
    """Write a duration in its two largest units.

    Example:
        >>> duration_text(42.4), duration_text(190), duration_text(11_520), duration_text(200_000)
        ('42 s', '3 min', '3 h 12 min', '2 d 8 h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def time_left_text(seconds: float) -> str:
    """Write a time left, and when it will be over by the clock of this machine."""
    return f"{duration_text(seconds)} left, until {datetime.now() + timedelta(seconds=seconds):%a %d %b %H:%M}"
