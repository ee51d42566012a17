"""A bounded cache on disk of ranges of remote files, which processes and jobs share without locks.

A remote file is a sparse local file of the same size; what was read is written at its place. Nothing notes which parts
are there: a reader compares checksums in any case, and a hole, a torn write or a damaged disk is a miss. So writers
need not agree, and a process that is killed leaves nothing to repair.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from mvdiff.files.sizes import size_text

_SHARE_BETWEEN_CHECKS = 16  # the folder is measured whenever a process has written this part of its limit
_USED_EVERY = 60.0  # seconds between notes that a file is in use
_log = logging.getLogger(__name__)


class RangeCache:
    """Cache of ranges of files; the files that were used least recently go first.

    Args:
        folder: Folder of the cache, which several data sets, processes and jobs may share.
        limit: Most bytes on disk; between two measurements each process may exceed it by a sixteenth.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._unmeasured = limit  # the first write measures
        self._used: dict[str, float] = {}
        self._is_full = False

    def read(self, name: str, start: int, end: int) -> bytes | None:
        """Return bytes that may be a range of a file, or None; the caller must compare checksums."""
        path = self.folder / name
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                content = file.read(end - start)
        except OSError:
            return None
        now = time.monotonic()
        if now - self._used.get(name, -_USED_EVERY) >= _USED_EVERY:
            self._used[name] = now
            with suppress(OSError):
                os.utime(path)
        return content

    def write(self, name: str, start: int, content: bytes, size: int) -> None:
        """Keep a range of a file of `size` bytes; where the disk is full or unwritable, warn once and keep nothing."""
        if size > self.limit:
            size, limit = size_text(size), size_text(self.limit)
            self._warn(f"cache_size ({limit}) is less than one shard ({size}); nothing is kept")
            return
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size != size:
                    os.ftruncate(descriptor, size)
                os.pwrite(descriptor, content, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._warn(f"{self.folder} cannot be written ({error.strerror or error}); nothing more is kept")
            return
        self._unmeasured += len(content)
        if self._unmeasured * _SHARE_BETWEEN_CHECKS >= self.limit:
            self._unmeasured = 0
            self._evict(path)

    def _evict(self, in_use: Path) -> None:
        """Remove the files that were used least recently until the rest fits."""
        files = []
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder) / name for name in names):
                with suppress(OSError):  # another process removed it
                    status = path.stat()
                    files.append((status.st_mtime, status.st_blocks * 512, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                break
            if path != in_use:
                with suppress(OSError):
                    path.unlink()
                    total -= size

    def _warn(self, text: str) -> None:
        if not self._is_full:
            self._is_full = True
            _log.warning("%s.", text)
