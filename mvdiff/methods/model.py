"""ModelMethod: a trained model, unchanged or under a control.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.methods.method import Method
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS


class ModelMethod(Method):
    """Sample from a pipeline. Known pixels are not pasted back, so that scores rate the model's own pixels.

    Args:
        name: See `Method`.
        pipeline: Pipeline to sample from.
        controls: Parts to switch off: `Controls(caa=False)` is the plain base. None: those of the class.
    """

    controls: Controls = NO_CONTROLS

    def __init__(self, name: str | None, pipeline: MultiViewPipeline, controls: Controls | None = None) -> None:
        super().__init__(name, pipeline.task)
        self.pipeline = pipeline
        self.controls = type(self).controls if controls is None else controls

    @property
    def pipelines(self) -> tuple[MultiViewPipeline, ...]:
        """Return the pipeline."""
        return (self.pipeline,)

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Sample images with the pipeline; see `Method.generate`."""
        return self.pipeline.generate(batch, sampling, seed=seed, controls=self.controls).images

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings of model, sampling and controls; see `described_settings`."""
        settings = described_settings(self.pipeline, sampling, self.controls, paste_back=False)
        return settings | ({"method": type(self).name} if type(self).name else {})

    def text_notes(self, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """Return notes on cut and empty prompts; see `Method.text_notes`."""
        return self.pipeline.text_notes(prompts, sampling)
