"""Signals that end a process: one exception with an exit status, and loading processes that outlive a signal."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_GRACE = 20
"""Seconds that a loading process lives on after SIGTERM."""


class Stopped(BaseException):
    """A signal ended the work. Code that handles errors lets it pass; code that cleans up runs.

    Args:
        signum: Signal.
        text: Sentence for the user; None: one that names the signal; "": another process says it.
    """

    def __init__(self, signum: int, text: str | None = None) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}" if text is None else text)
        self.status = 128 + signum
        """Exit status, as shells count it."""


@contextmanager
def stopped_by(*signals: int) -> Iterator[None]:
    """Raise `Stopped` in the main thread when one of the signals arrives; the same signal again ends the process.

    Signals that are ignored (`nohup`, background jobs), or that have a handler of somebody else, are left alone. A
    process that is forked inside dies of the signal.
    """
    process = os.getpid()

    def stop(signum: int, _frame: object) -> None:
        signal.signal(signum, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), signum)
            return
        raise Stopped(signum)

    in_main = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in signals if in_main}
    before = {s: old for s, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for signum in before:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def outlive_signals(_worker: int = 0) -> None:
    """Let a loading process live on when a signal reaches the whole group, as Ctrl-C and SLURM send it.

    The main process still needs its batches to end the step and save. SIGTERM ends the process 20 seconds later, so
    that a process that hangs is gone at last.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_IGN)
