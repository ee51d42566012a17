"""Faults: one call of a function of `os` fails as on a full disk, or a signal comes with it."""

import errno
import os
import signal
from collections.abc import Callable, Iterator

import pytest


def full_disk(monkeypatch: pytest.MonkeyPatch, call: int, function: str = "replace") -> None:
    """Let a call, counted from 1, of `os.replace` (which ends every write) or `os.fsync` fail, once."""
    real, count = getattr(os, function), [0]

    def failing(*args, **kwargs):
        count[0] += 1
        if count[0] == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, failing)


def sigterm_before(monkeypatch: pytest.MonkeyPatch, call: int, function: str = "replace") -> list[int]:
    """Send SIGTERM to this process before a call, counted from 1, of a function of `os`; return the growing count."""
    real, count = getattr(os, function), [0]

    def signalling(*args, **kwargs):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, signalling)
    return count


def every_fault(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], function: str = "replace", step: int = 1
) -> Iterator[OSError]:
    """Run an action with a fault in its first call of a function, in its second, and so on; yield what it raises.

    The last run, in which no call fails, succeeds. With a step, only every so many calls are tried.
    """
    for call in range(1, 300, step):
        with monkeypatch.context() as patch:
            full_disk(patch, call, function)
            try:
                action()
            except OSError as error:
                raised = error
            else:
                return
        yield raised
    pytest.fail("the action must end well without a fault")
