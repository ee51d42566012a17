"""Where shards lie: ranges of their bytes, from a folder or from any address that fsspec opens, with a cache.

What is read is checked by the caller's checksum before it is returned: a server that sends half of a range, or other
bytes, is asked again, a bounded number of times.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from mvdiff.data.damage import WrongSettings
from mvdiff.data.shards.cache import RangeCache
from mvdiff.files.paths import expanded, folder_or_url, is_url
from mvdiff.files.sizes import parse_size
from mvdiff.settings import ShardSettings

T = TypeVar("T")
Check = Callable[[bytes], str | None]
"""Describes what is wrong with bytes; None: nothing."""
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 20.0  # seconds before a request is repeated
_LARGEST_PIECE = 64 << 20  # bytes that are fetched ahead in one request, and so held in memory
_POLL = 0.05  # seconds between two looks at what another process fetches
_log = logging.getLogger(__name__)


class ShardStore:
    """A folder, or an address of fsspec, that holds shards.

    Args:
        root: Folder, or address such as s3://bucket/data, https://host/data or memory://data.
        settings: Cache, retries and options of the file system.

    Raises:
        ValueError: fsspec knows no such file system.
    """

    def __init__(self, root: str | Path, settings: ShardSettings) -> None:
        self.root = folder_or_url(root)
        self.settings = settings
        self.is_remote = is_url(self.root) or settings.cache_dir is not None  # which only helps where a folder is far
        self.cache: RangeCache | None = None
        self._name = ""
        self._failed: set[tuple[str, int]] = set()  # pieces that this process does not fetch ahead again
        if settings.cache_dir is not None:
            self.cache = RangeCache(expanded(settings.cache_dir), parse_size("cache_size", settings.cache_size))
        units = -(-parse_size("read_ahead", settings.read_ahead) // RangeCache.unit)
        self._piece = min(units * RangeCache.unit, _LARGEST_PIECE)
        if self.is_remote:
            self._file_system()

    def place(self, name: str) -> str:
        """Return the path or address of a file, for errors."""
        return f"{self.root}/{name}"

    def keep_under(self, name: str) -> None:
        """Name the folder of the cache for these shards; nothing is kept before."""
        self._name = name

    def whole(self, name: str, check: Check) -> bytes:
        """Read a small file; of several processes with one cache, one fetches it.

        Raises:
            FileNotFoundError: It does not exist.
            OSError: It cannot be read, or is not what `check` expects.
        """
        if self.cache is None or not self._name:
            return self._bytes(name, 0, None, check)
        cache, path = self.cache, f"{self._name}/{name}"

        def kept() -> bytes | None:
            content = cache.read(path)
            return None if content is None or check(content) else content

        def fetch() -> bytes:
            content = self._bytes(name, 0, None, check)
            cache.write_whole(path, content)
            return content

        return self._once(cache, path, 0, kept, fetch)

    def read(self, name: str, start: int, end: int, check: Check, size: int) -> bytes:
        """Read bytes from `start` to `end` of a file of `size` bytes.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: The bytes cannot be read, or are not what `check` expects.
        """
        if self.cache is None or not self._name:
            return self._bytes(name, start, end, check)
        path = f"{self._name}/{name}"
        content = self.cache.read(path, start, end)
        if content is not None and check(content) is None:
            return content
        if self._piece and self.cache.takes(size):
            for first in range(start // self._piece * self._piece, end, self._piece):
                self._fetch_ahead(self.cache, name, first, min(first + self._piece, size), size)
            content = self.cache.read(path, start, end)
            if content is not None and check(content) is None:
                return content
        content = self._bytes(name, start, end, check)
        self.cache.write(path, start, content, size)
        return content

    def _fetch_ahead(self, cache: RangeCache, name: str, start: int, end: int, size: int) -> None:
        """Have a piece in the cache, if that is possible; of several processes, one fetches it."""
        path = f"{self._name}/{name}"

        def fetch() -> bool:
            until = time.monotonic() + self.settings.timeout  # others wait no longer for this piece
            try:
                content = self._fetched(name, start, end, partial(_other_length, end - start), until)
            except FileNotFoundError:
                raise
            except OSError as error:  # its samples are asked for one by one
                _log.info("%s", error)
                self._failed.add((name, start))
            else:
                cache.write(path, start, content, size)
            return True

        if (name, start) not in self._failed:
            self._once(cache, path, start, lambda: cache.has(path, start, end, size) or None, fetch)

    def _once(
        self, cache: RangeCache, path: str, start: int, kept: Callable[[], T | None], fetch: Callable[[], T]
    ) -> T:
        """Return what is kept, or fetch it while no other process does; none is waited for longer than a request."""
        deadline = time.monotonic() + self.settings.timeout
        while (found := kept()) is None:
            with cache.alone(path, start) as is_free:
                if is_free or time.monotonic() > deadline:
                    found = kept()  # what another one fetched in the meantime
                    return fetch() if found is None else found
            time.sleep(_POLL)
        return found

    def chunks(self, name: str, size: int, step: int) -> Iterator[bytes]:
        """Yield a file of `size` bytes in pieces, past the cache; nothing but their lengths is checked.

        Raises:
            FileNotFoundError: It does not exist.
            OSError: It cannot be read, or is shorter.
        """
        for start in range(0, size, step):
            end = min(start + step, size)
            yield self._bytes(name, start, end, partial(_other_length, end - start))

    def _bytes(self, name: str, start: int, end: int | None, check: Check) -> bytes:
        """Read bytes from `start` to `end`, or to the end of the file, past the cache."""
        return self._fetched(name, start, end, check) if self.is_remote else self._local(name, start, end, check)

    def _local(self, name: str, start: int, end: int | None, check: Check) -> bytes:
        try:
            with open(self.root / name, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(start)
                content = file.read(max(0, (size if end is None else min(end, size)) - start))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.place(name)} does not exist.") from error
        if problem := check(content):
            raise OSError(f"{self.place(name)} cannot be read: {problem}.")
        return content

    def _fetched(self, name: str, start: int, end: int | None, check: Check, until: float = math.inf) -> bytes:
        """Ask the file system for bytes, again if it fails or sends others than `check` expects.

        No request is repeated after the time `until`, of `time.monotonic`.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: It cannot be read.
            WrongSettings: The server sends more than the range that was asked for.
        """
        files, root = self._file_system()
        how = {"timeout": self.settings.timeout} if files.async_impl else {}
        part = {} if end is None else {"start": start, "end": end}  # by name: s3fs has a version before them
        for attempt in count(1):
            try:
                content = files.cat_file(f"{root}/{name}", **part, **how)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{self.place(name)} does not exist.") from error
            except Exception as error:  # every file system has errors of its own
                problem = " ".join(str(error).split()) or type(error).__name__
            else:
                if end is not None and len(content) > end - start:  # never asked again: it costs the whole file
                    raise WrongSettings(
                        f"{self.root} must be an address whose server sends ranges of files; got {len(content)} bytes "
                        f"of {name} where {end - start} were asked for."
                    )
                if not (problem := check(content)):
                    return content
            if attempt > self.settings.retries or time.monotonic() >= until:
                raise OSError(f"{self.place(name)} cannot be read: {problem} ({attempt} attempts).")
            _log.info("%s: %s; asking again", self.place(name), problem)
            wait = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
            time.sleep(wait * random.uniform(0.5, 1.5))  # thousands of workers must not ask in step

    def _file_system(self) -> tuple[Any, str]:
        """Return the file system of this process (their connections do not survive a fork) and the path in it."""
        from fsspec import filesystem
        from fsspec.core import url_to_fs

        if isinstance(self.root, Path):
            return filesystem("file"), os.path.abspath(self.root)
        try:
            return url_to_fs(self.root, **self.settings.storage_options)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.root} must be an address that fsspec opens ({error}).") from error


def _other_length(expected: int, content: bytes) -> str | None:
    return None if len(content) == expected else f"it has {len(content)} of {expected} bytes"
