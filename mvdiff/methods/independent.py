"""Independent: the plain base, view by view."""

from __future__ import annotations

from typing import Self

from mvdiff.methods.model import ModelMethod
from mvdiff.methods.parts import Parts
from mvdiff.settings import Controls
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task


class Independent(ModelMethod):
    """Sample each view from the base alone: Table 1's "SD (Perspective)" and Table 3's "SD".

    It needs a model, whose base it runs, or a base for the task (`--model` or `--base`).
    """

    name = "independent"
    unused_parts = ("controlnet",)
    controls = Controls(caa=False)

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the model's base, else the base; without a task the base is for panoramas. See `Method.open`."""
        if parts.model is not None:
            return cls(cls.name, parts.open_model(cls.name, task))
        task = task_from("panorama") if task is None else task
        return cls(cls.name, parts.open_base(cls.name, task, f"a base for the task {task.name}, or a --model"))
