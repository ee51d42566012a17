"""Method: a row of a table, and its samples on disk.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.sample_folders import GenerationCounts, write_samples
from mvdiff.settings import Sampling
from mvdiff.tasks.task import Task


class Method(ABC):
    """Generator of images for a batch: the model, a control or a reference.

    Args:
        name: Name of its row in tables.
        task: Task that describes what a sample was given, for its folder; None: nothing.
    """

    is_sampled: ClassVar[bool] = True
    """Images depend on the seed."""

    def __init__(self, name: str, task: Task | None = None) -> None:
        self.name = name
        self.task = task

    @abstractmethod
    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return images [B, V, 3, H, W] in [-1, 1] on the CPU; noise is keyed by seed, sample id and view."""

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Describe, in JSON, what shapes an image besides prompt, cameras and seed."""
        return {}


def write_method(
    method: Method,
    batches: Iterable[MultiViewBatch],
    out: str | Path,
    sampling: Sampling,
    *,
    seed: int = 0,
    rig: Rig | None = None,
    overwrite: bool = False,
) -> GenerationCounts:
    """Write a method's samples of some batches, a folder each; see `write_samples`.

    Args:
        method: What makes the images.
        batches: Each is one call of the method.
        out: Root of the sample folders.
        sampling: Steps, guidance, negative prompt, eta.
        seed: Random seed (noise is also keyed by sample id).
        rig: The views, where they are a rig; they are stitched to a panorama.
        overwrite: Make complete samples again.
    """
    counts = [
        write_samples(
            batch,
            out,
            lambda rows: method.generate(rows, sampling, seed),
            task=method.task,
            rig=rig,
            seed=seed if method.is_sampled else None,
            settings=method.describe(sampling),
            overwrite=overwrite,
        )
        for batch in batches
    ]
    return GenerationCounts(sum(count.written for count in counts), sum(count.skipped for count in counts))
