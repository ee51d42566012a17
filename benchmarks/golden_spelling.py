"""Everything that two trees may spell differently, for `golden.py`. Edit a new tree's names here and nowhere else.

`BASE` is the spelling of commit 874fe59. Where the present tree spells something differently, `spelling` returns a copy
of `BASE` with the changed fields, chosen by a feature of the tree (a file that exists), never by a guess.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spelling:
    """Names that the sections of the golden comparison use."""

    # The command line.
    cli: tuple[str, ...] = ("-m", "mvdiff.cli.main")

    # Pipelines: the module and the class of each task.
    pipelines: tuple[tuple[str, str, str], ...] = (
        ("panorama", "mvdiff.pipelines.panorama", "MVDiffusionPanoramaPipeline"),
        ("outpaint", "mvdiff.pipelines.outpaint", "MVDiffusionOutpaintPipeline"),
        ("depth", "mvdiff.pipelines.depth", "MVDiffusionDepthPipeline"),
    )


BASE = Spelling()


def spelling(tree: Path) -> Spelling:
    """Return the spelling of a tree."""
    return BASE
