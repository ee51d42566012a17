"""MVDiffusion: a trained model with attention across views, the paper's own row."""

from __future__ import annotations

from typing import Self

from mvdiff.methods.model import ModelMethod
from mvdiff.methods.parts import Parts
from mvdiff.tasks.task import Task


class MVDiffusion(ModelMethod):
    """Sample all views jointly from a trained model of any task.

    It needs a model folder (`--model`).
    """

    name = "mvdiffusion"
    unused_parts = ("controlnet",)

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the model; see `Method.open`."""
        return cls(cls.name, parts.open_model(cls.name, task))
