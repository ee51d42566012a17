"""The progress bar of the commands: things done of things to do, on stderr, only where someone looks on."""

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
