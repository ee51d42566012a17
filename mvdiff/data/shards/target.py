"""Where shards are written: a folder, or an address of fsspec; a file is there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvdiff.data.shards.listing import shard_files
from mvdiff.files.paths import folder_or_url, is_url
from mvdiff.files.writing import check_plain_folder, sync_files, sync_folders, temporary_beside, write_whole

_TRIES, _FIRST_WAIT = 6, 0.5  # of an upload; seconds before it is repeated, then twice as many
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
"""Errors of an upload that its repetition does not mend."""


class Target:
    """A folder or address to write to.

    Args:
        place: Folder, which is made, or address.
        storage_options: Options of fsspec's file system for an address.

    Raises:
        OSError: The folder cannot be made.
        ValueError: fsspec knows no such file system.
    """

    def __init__(self, place: str | Path, storage_options: Mapping[str, Any]) -> None:
        self.place = folder_or_url(place)
        self.is_remote = is_url(self.place)
        self._options = storage_options
        if not self.is_remote:
            check_plain_folder(self.place)
            self.place.mkdir(parents=True, exist_ok=True)
            return
        from fsspec.core import url_to_fs

        try:
            self._files, self._root = url_to_fs(self.place, **storage_options)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"--out must be a folder or an address that fsspec opens; got {place} ({error})."
            ) from error
        if not self._files.async_impl:  # asynchronous ones have no folders: s3fs and gcsfs would make a bucket
            self._repeated(lambda: self._files.makedirs(self._root, exist_ok=True))

    def shard_files(self) -> set[str] | None:
        """Return the names of the shards' files that are there; None: the store cannot be listed."""
        return shard_files(self.place, self._options)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None: it does not exist."""
        try:
            if self.is_remote:
                return self._files.size(f"{self._root}/{name}")
            return (self.place / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None: it does not exist."""
        try:
            return self._files.cat_file(f"{self._root}/{name}") if self.is_remote else (self.place / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        if self.is_remote:
            self._repeated(lambda: self._files.pipe_file(f"{self._root}/{name}", content))
        else:
            write_whole(self.place / name, content)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        if self.size(name) is not None:
            if self.is_remote:
                self._files.rm_file(f"{self._root}/{name}")
            else:
                (self.place / name).unlink()

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield the path of a temporary file to write; it takes the name when the block ends well."""
        if self.is_remote:
            with tempfile.TemporaryDirectory(prefix="mvdiff-shard-") as folder:
                path = Path(folder) / name
                yield path
                self._repeated(lambda: self._files.put_file(str(path), f"{self._root}/{name}"))
            return
        path = temporary_beside(self.place / name)
        try:
            yield path
            sync_files([path])
            os.replace(path, self.place / name)
            sync_folders(self.place)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _repeated(self, upload: Callable[[], None]) -> None:
        """Upload, again if it fails for a reason that may pass."""
        for attempt in range(1, _TRIES + 1):
            try:
                upload()
            except Exception as error:  # every file system has errors of its own
                if attempt == _TRIES or isinstance(error, _LASTING):
                    tried = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise OSError(f"--out {self.place} cannot be written: {error}{tried}.") from error
                time.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
            else:
                return
