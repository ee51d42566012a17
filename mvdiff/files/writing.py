"""Write whole files: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; sync it and rename it to `path` when the block ends well.

    Raises:
        OSError: `path` is a folder, a link, a device or another target that is not a plain file.
    """
    check_plain(path)
    partial = temporary_beside(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def temporary_beside(path: Path) -> Path:
    """Return a hidden name beside `path` that no other file or process has."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{uuid4().hex[:8]}.partial")


def check_plain(path: Path) -> None:
    """Raise OSError where `path` exists and is not a plain file, since a rename would replace it."""
    if path.is_symlink():
        raise OSError(f"{path} is a link to {os.readlink(path)}; give the file itself.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file; it is a folder.")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} must be a plain file; it is a device, a pipe or a socket.")
