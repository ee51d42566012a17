"""How a quickstart was made: what each step took, the report's footer, and what goes to `results.json`."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mvdiff.quickstart.settings import QuickstartSettings
from mvdiff.samples import write_json


class Clock:
    """Announce each step and remember how long it took."""

    def __init__(self) -> None:
        self.console = Console()
        self.started = time.monotonic()
        self.steps: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        self.console.print(f"[bold]{name}[/bold]")
        start = time.monotonic()
        yield
        self.steps.append((name, round(time.monotonic() - start, 1)))

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def footer(command: str, settings: QuickstartSettings, base: str, clock: Clock) -> dict[str, str]:
    """Return what the report says of its making.

    Args:
        command: What was typed.
        settings: The quickstart's.
        base: The model's base and its weights.
        clock: What the steps took.
    """
    from mvdiff.pipelines.sample_folders import library_versions

    return {
        "command": command,
        "settings": ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(settings).items() if key != "out"),
        "base": base,
        "versions": ", ".join(f"{name} {number}" for name, number in library_versions().items()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "time": ", ".join(f"{name}: {seconds:.0f} s" for name, seconds in clock.steps)
        + f"; {clock.total:.0f} s in all",
    }


def write_results(settings: QuickstartSettings, clock: Clock, **found: Any) -> Path:
    """Write `results.json`: the settings, the seconds of every step, and what was found; return its path."""
    described = dataclasses.asdict(settings) | {"out": str(settings.out)}
    results = {"settings": described, **plain(found), "seconds": dict(clock.steps)}
    return write_json(settings.out / "results.json", results)


def plain(value: Any) -> Any:
    """Turn intervals into dictionaries, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value
