"""Options of `mvdiff doctor` beside those of `mvdiff fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The run, and what to check. Every other option of `mvdiff fit` may follow, such as --trainer.devices 4."""

    config: list[str]
    """YAML file of the run, or a packaged one (listed in mvdiff fit --help); repeat to combine files: later ones
    override earlier ones"""
    all_data: bool = False
    """check every file of the data set, as `mvdiff data check` does (default: the first 16 panoramas of each split, or
    16 frames of its first scene)"""
    no_step: bool = False
    """skip the training step"""
    json: Path | None = None
    """JSON file that receives the findings"""


def add_options(parser: ArgumentParser) -> None:
    """Add the options to the parser of `mvdiff fit`, which has --config."""
    for name in ("--all_data", "--no_step"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--json", type=str | None, default=None)


def without_options(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that `mvdiff fit` takes.

    >>> without_options(["--config", "pano.yaml", "--no_step", "--json", "out.json", "--trainer.devices", "4"])
    ['--config', 'pano.yaml', '--trainer.devices', '4']
    """
    kept: list[str] = []
    previous = ""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name not in ("--all_data", "--no_step", "--json") and previous != "--json":
            kept.append(argument)
        previous = argument
    return kept
