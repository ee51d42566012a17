"""ModelMethod: a model of ours, as it is or under a control.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.methods.method import Method
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS


class ModelMethod(Method):
    """A pipeline's samples. Known pixels are left as the model renders them, so that scores are of its own pixels.

    Args:
        name: See `Method`.
        pipeline: The model.
        controls: What is switched off: `Controls(caa=False)` is the plain base.
    """

    def __init__(self, name: str, pipeline: MultiViewPipeline, controls: Controls = NO_CONTROLS) -> None:
        super().__init__(name, pipeline.task)
        self.pipeline, self.controls = pipeline, controls

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Sample; see `Method`."""
        return self.pipeline.generate(batch, sampling, seed=seed, controls=self.controls).images

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Describe model, sampling and controls."""
        return described_settings(self.pipeline, sampling, self.controls, paste_back=False)
