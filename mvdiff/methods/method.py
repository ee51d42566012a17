"""Method: one row of a comparison table; and writing its samples to disk.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import Rig
from mvdiff.methods.parts import Parts
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import GenerationCounts, write_samples
from mvdiff.settings import Sampling
from mvdiff.tasks.task import Task


class Method(ABC):
    """A way to make images for a batch: a model, a control or a reference.

    Args:
        name: Name of the row in tables; default: the method's own name, else that of its class.
        task: Task that describes the known content of a sample in its folder; None: no description.
    """

    name: str = ""
    """Name that users write (`--method NAME`); a file of this package holds the method that is named as the file is."""
    tasks: ClassVar[tuple[str, ...] | None] = None
    """Names of the tasks that the method serves; None: all."""
    unused_parts: ClassVar[tuple[str, ...]] = ()
    """Fields of `Parts` that `open` does not read: giving one is a mistake."""
    is_sampled: ClassVar[bool] = True
    """True if the images depend on the seed."""
    makes_single_views: ClassVar[bool] = False
    """True if the views of a sample are made one after the other, so that more samples fit into memory."""

    def __init__(self, name: str | None = None, task: Task | None = None) -> None:
        self.name = name or type(self).name or type(self).__name__
        self.task = task

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the method from the parts that a user gave; by default it needs none.

        Args:
            parts: Places of models.
            task: Task of the samples; None: that of the model.

        Raises:
            MissingPart: A part that the method needs was not given.
        """
        return cls(task=task)

    @property
    def pipelines(self) -> tuple[MultiViewPipeline, ...]:
        """Return the pipelines that the method runs, so that a caller can choose their device and switches."""
        return ()

    @property
    def rig(self) -> Rig | None:
        """Return the views that the method generates by default; None if they are not a rig."""
        return next((pipeline.views["rig"] for pipeline in self.pipelines if "rig" in pipeline.views), None)

    @abstractmethod
    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return images [B, V, 3, H, W] in [-1, 1] on the CPU; noise is keyed by seed, sample id and view."""

    def generate_with_panoramas(
        self, batch: MultiViewBatch, sampling: Sampling, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the images of `generate`, and the panoramas [B, 3, H, 2H] that they were cut from, if they were."""
        return self.generate(batch, sampling, seed), None

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return, as JSON values, all settings that affect an image except prompt, cameras and seed."""
        return {}

    def text_notes(self, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """Return notes on cut and empty prompts, for `sample.json`; see `mvdiff.models.prompts.text_notes`."""
        return {}

    def warn_of_texts(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Log a warning about cut and empty prompts of all views, each text once; by default none."""
        for pipeline in self.pipelines:
            pipeline.warn_of_texts(prompts, sampling)


def write_method(
    method: Method,
    batches: Iterable[MultiViewBatch],
    out: str | Path,
    sampling: Sampling,
    *,
    seed: int = 0,
    rig: Rig | None = None,
    batch_size: int | None = None,
    paste_back: bool = False,
    overwrite: bool = False,
) -> GenerationCounts:
    """Generate the samples of some batches and write one folder per sample; see `write_samples`.

    `sample.json` records the method's name under `settings.method`.

    Args:
        method: Method that makes the images.
        batches: Batches; the method is called at least once for each.
        out: Root of the sample folders.
        sampling: Number of steps, guidance, negative prompt and eta.
        seed: Random seed (noise is also keyed by sample id).
        rig: Rig of the views, to stitch a panorama of them unless the method makes it; None: none is stitched.
        batch_size: Samples to generate at once; default: those of a batch.
        paste_back: Paste known pixels into the views, for tasks that can.
        overwrite: Regenerate samples that are already complete.

    Returns:
        Numbers of written and skipped samples.
    """
    settings = method.describe(sampling)
    settings.setdefault("method", method.name)
    paste_back = paste_back and getattr(method.task, "paste_back", False)
    if paste_back:
        settings["paste_back"] = True

    def generate(rows: MultiViewBatch) -> tuple[Tensor, Tensor | None]:
        images, panoramas = method.generate_with_panoramas(rows, sampling, seed)
        return method.task.finish(images, rows) if paste_back else images, panoramas

    def write(batch: MultiViewBatch) -> GenerationCounts:
        valid = zip(chain.from_iterable(batch.prompts), batch.view_valid.flatten().tolist(), strict=True)
        method.warn_of_texts([prompt for prompt, is_valid in valid if is_valid], sampling)
        return write_samples(
            batch,
            out,
            generate,
            task=method.task,
            rig=rig,
            seed=seed if method.is_sampled else None,
            batch_size=batch_size,
            settings=settings,
            text_notes=lambda prompts: method.text_notes(prompts, sampling),
            overwrite=overwrite,
        )

    counts = [write(batch) for batch in batches]
    return GenerationCounts(sum(count.written for count in counts), sum(count.skipped for count in counts))
