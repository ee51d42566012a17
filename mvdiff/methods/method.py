"""Method: one row of a comparison table; and writing its samples to disk.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.sample_folders import GenerationCounts, write_samples
from mvdiff.settings import Sampling
from mvdiff.tasks.task import Task


class Method(ABC):
    """A way to make images for a batch: a model, a control or a reference.

    Args:
        name: Name of the row in tables.
        task: Task that describes the known content of a sample in its folder; None: no description.
    """

    is_sampled: ClassVar[bool] = True
    """True if the images depend on the seed."""

    def __init__(self, name: str, task: Task | None = None) -> None:
        self.name = name
        self.task = task

    @abstractmethod
    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return images [B, V, 3, H, W] in [-1, 1] on the CPU; noise is keyed by seed, sample id and view."""

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return, as JSON values, all settings that affect an image except prompt, cameras and seed."""
        return {}

    def text_notes(self, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """Return notes on cut and empty prompts, for `sample.json`; see `mvdiff.models.prompts.text_notes`."""
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
    """Generate the samples of some batches and write one folder per sample; see `write_samples`.

    Args:
        method: Method that makes the images.
        batches: Batches; the method is called once for each.
        out: Root of the sample folders.
        sampling: Number of steps, guidance, negative prompt and eta.
        seed: Random seed (noise is also keyed by sample id).
        rig: Rig of the views, to stitch a panorama of them; None: no panorama.
        overwrite: Regenerate samples that are already complete.

    Returns:
        Numbers of written and skipped samples.
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
            text_notes=lambda prompts: method.text_notes(prompts, sampling),
            overwrite=overwrite,
        )
        for batch in batches
    ]
    return GenerationCounts(sum(count.written for count in counts), sum(count.skipped for count in counts))
