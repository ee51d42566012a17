"""The progress bar of the commands, on stderr, only where someone looks on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Return a bar that is gone when it is done; in a log file it never shows.

    Example:
        >>> with progress_bar() as bar:
        ...     bar.advance(bar.add_task("rooms", total=3))
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


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
def progress_of(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while something runs; give the function to call with (done, total)."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
