"""Progress of the commands on stderr: a bar where someone looks on, lines now and then in a log file."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mvdiff.files.sizes import time_left_text

Counted = Callable[[int, int], None]
"""Called with (done, total)."""
_EVERY = 30.0  # seconds between two lines in a log file


class ProgressBar(Progress):
    """A bar that is gone when it is done; where there is no terminal, a line every 30 seconds.

    Args:
        console: Where it is shown.
        get_time: Clock in seconds; None: that of the machine.
    """

    def __init__(self, console: Console, get_time: Callable[[], float] | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, get_time=get_time, disable=not console.is_terminal)
        self._starts: dict[TaskID, tuple[float, float]] = {}  # time and count at a task's first step
        self._last_line = self.get_time()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task by some steps."""
        super().advance(task_id, advance)
        self._write_line(task_id)

    def update(self, task_id: TaskID, **values: Any) -> None:
        """Set the state of a task, see `rich.progress.Progress.update`."""
        super().update(task_id, **values)
        self._write_line(task_id)

    def _write_line(self, task_id: TaskID) -> None:
        """Write a line if it is time for one; the time left is by the mean speed since the task's first step."""
        if not self.disable:
            return
        with self._lock:
            task, now = self._tasks[task_id], self.get_time()
            since, before = self._starts.setdefault(task_id, (now, task.completed))
            if now - self._last_line < _EVERY:
                return
            self._last_line = now
            text = f"{task.description}: {task.completed:.0f}"
            if task.total is not None:
                text += f" of {task.total:.0f}"
                if task.completed > before:
                    left = (now - since) / (task.completed - before) * max(0, task.total - task.completed)
                    text += f", {time_left_text(left)}"
            print(text, file=self.console.file, flush=True)

    def counted(self, description: str) -> Counted:
        """Add a task; return the function to call with (done, total)."""
        task = self.add_task(description, total=None)
        return lambda done, total: self.update(task, completed=done, total=total)


def progress_bar() -> ProgressBar:
    """Return a bar on stderr.

    Example:
        >>> with progress_bar() as bar:
        ...     bar.advance(bar.add_task("rooms", total=3))
    """
    return ProgressBar(Console(stderr=True))


def quiet_libraries() -> None:
    """Silence bars that last a blink and Lightning's advertisements; downloads keep their bars."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    enable_progress_bars()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_concerns_the_run)


def _concerns_the_run(record: logging.LogRecord) -> bool:
    """Leave out advertisements, and TPUs that nobody asked for."""
    return "Tip:" not in record.getMessage() and "TPU available: False" not in record.getMessage()


@contextmanager
def progress_of(description: str) -> Iterator[Counted]:
    """Show a bar while something runs; give the function to call with (done, total)."""
    with progress_bar() as bar:
        yield bar.counted(description)
