"""Locks between processes, also of different machines; they end with the process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on a file; yield False if another process holds it.

    The empty file stays: a process that removes it may remove that which the next one has locked. Where there are no
    locks (Windows, some file systems), every process gets it.

    Args:
        path: File of the lock; it and its folder are made if missing.
        wait: Wait until no other process holds it.

    Raises:
        OSError: The folder cannot be made or written.
    """
    if fcntl is None:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        is_free = True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_free = False
        except OSError:  # file systems without locks
            pass
        yield is_free
