"""A bounded cache on disk of remote files, which processes and jobs share.

A remote file is a sparse local one: what was read is written at its place. Behind its end, a byte for each MiB notes
that all of it was fetched. That saves requests and promises nothing: a reader compares checksums in any case, and a
hole, a torn write or a damaged disk is a miss. So a process that is killed leaves nothing to repair.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mvdiff.files.locks import locked
from mvdiff.files.sizes import size_text

_SHARE_BETWEEN_CHECKS = 16  # the folder is measured whenever a process has written this part of its limit
_USED_EVERY = 60.0  # seconds between notes that a file is in use
_LOCKS, _NUM_LOCKS = ".locks", 4096  # folder of the locks; how many there are, for any number of pieces
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES, _PAUSE = 3, 300.0  # attempts to write; seconds without any after the last one failed
_log = logging.getLogger(__name__)


class RangeCache:
    """Cache of files and of ranges of files; those that were used least recently go first.

    Args:
        folder: Folder of the cache, which several data sets, processes and jobs may share.
        limit: Most bytes on disk; between two measurements each process may exceed it by a sixteenth.
    """

    unit = 1 << 20  # bytes of a file that are noted together

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._closed_until = 0.0
        self._unmeasured = limit  # the first write measures
        self._used: dict[str, float] = {}
        self._said_too_small = self._said_closed = False

    @property
    def is_open(self) -> bool:
        """False for some minutes after the disk was full or could not be written; what is there is still read."""
        return time.monotonic() >= self._closed_until

    def takes(self, size: int) -> bool:
        """Return True if ranges of a file of `size` bytes are kept; warn once if they never can be."""
        if size > self.limit and not self._said_too_small:
            self._said_too_small = True
            size_and_limit = size_text(size), size_text(self.limit)
            _log.warning("A shard has %s, more than cache_size (%s); such shards are not kept.", *size_and_limit)
        return self.is_open and size <= self.limit

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Return bytes that may be a range of a file, or the whole of one; the caller must compare checksums."""
        path = self.folder / name
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                content = file.read(-1 if end is None else end - start)
        except OSError:
            return None
        now = time.monotonic()
        if now - self._used.get(name, -_USED_EVERY) >= _USED_EVERY:
            self._used[name] = now
            with suppress(OSError):
                os.utime(path)
        return content

    def has(self, name: str, start: int, end: int, size: int) -> bool:
        """Return True if a range of a file of `size` bytes was fetched before, and the file not removed since."""
        first, last = start // self.unit, -(-end // self.unit)
        return self.read(name, size + first, size + last) == b"\1" * (last - first)

    def write(self, name: str, start: int, content: bytes, size: int) -> None:
        """Keep a range of a file of `size` bytes, if the disk can; see `is_open`."""
        if not self.takes(size):
            return
        end, units = start + len(content), -(-size // self.unit)
        first, last = -(-start // self.unit), units if end == size else end // self.unit
        self._put(name, size + units, [(start, content), (size + first, b"\1" * (last - first))])

    def write_whole(self, name: str, content: bytes) -> None:
        """Keep a small file, if the disk can; see `is_open`."""
        if self.takes(len(content)):
            self._put(name, len(content), [(0, content)])

    @contextmanager
    def alone(self, name: str, start: int) -> Iterator[bool]:
        """Hold the lock on what begins at `start`; yield False if another process fetches it now."""
        stripe = zlib.crc32(f"{name} {start}".encode()) % _NUM_LOCKS
        with ExitStack() as stack:
            try:
                is_free = not self.is_open or stack.enter_context(locked(self.folder / _LOCKS / f"{stripe:03x}"))
            except OSError:  # as what is to be written, which will say so
                is_free = True
            yield is_free

    def _put(self, name: str, length: int, parts: list[tuple[int, bytes]]) -> None:
        """Write parts of a file of `length` bytes in order; on a full disk, again after other files were removed."""
        path, size = self.folder / name, sum(len(content) for _, content in parts)
        for left in reversed(range(_TRIES)):  # another process may take the room that was made
            try:
                _write(path, length, parts)
                break
            except OSError as error:
                if not left:
                    self._close(error)
                    return
                if error.errno in _FULL:
                    self._evict(path, size)
        self._unmeasured += size
        if self._unmeasured * _SHARE_BETWEEN_CHECKS >= self.limit:
            self._unmeasured = 0
            self._evict(path)

    def _close(self, error: OSError) -> None:
        """Keep nothing for a while; warn the first time."""
        self._closed_until = time.monotonic() + _PAUSE
        level = logging.INFO if self._said_closed else logging.WARNING
        self._said_closed = True
        problem = error.strerror or error
        _log.log(level, "%s cannot be written (%s); nothing is kept for %.0f s.", self.folder, problem, _PAUSE)

    def _evict(self, in_use: Path, wanted: int = 0) -> None:
        """Remove the files that were used least recently until the rest fits, or until the disk has room again."""
        files = []
        for folder, inner, names in os.walk(self.folder):
            inner[:] = [name for name in inner if name != _LOCKS]
            for path in (Path(folder) / name for name in names):
                with suppress(OSError):  # another process removed it
                    status = path.stat()
                    files.append((status.st_mtime, status.st_blocks * 512, path))
        total = sum(size for _, size, _ in files)
        limit = self.limit
        if wanted:
            limit = min(limit, total - max(wanted, total // _SHARE_BETWEEN_CHECKS))
        for _, size, path in sorted(files):
            if total <= limit:
                break
            if path != in_use:
                with suppress(OSError):
                    path.unlink()
                    total -= size


def _write(path: Path, length: int, parts: list[tuple[int, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_size != length:
            os.ftruncate(descriptor, length)
        for start, content in parts:
            left = memoryview(content)
            while left:  # a disk that fills up takes a part first
                count = os.pwrite(descriptor, left, start)
                start, left = start + count, left[count:]
    finally:
        os.close(descriptor)
