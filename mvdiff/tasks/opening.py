"""Find a task by what model folders and checkpoints store."""

from __future__ import annotations

from mvdiff.class_paths import resolve_class
from mvdiff.tasks.depth import DepthTask
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Task

PAPER_TASKS: tuple[type[Task], ...] = (PanoramaTask, OutpaintTask, DepthTask)


def task_from(spec: str, where: str = "") -> Task:
    """Make the task of a name, such as "depth", or of a class path.

    Args:
        spec: What `Task.spec` returns.
        where: The file, for errors.

    Raises:
        ValueError: No task has that name, or the class path may not be opened (see `resolve_class`).

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
