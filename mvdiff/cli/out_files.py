"""Checks of `--out` before anything is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def check_out(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Check that a file has an allowed suffix and can be written; make nothing. Return its path.

    Args:
        path: The file.
        suffixes: Allowed suffixes, such as ".html".

    Raises:
        ValueError: It has another suffix.
        OSError: It is a folder, or its folder cannot be made or written.
    """
    path, endings = Path(path), " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out must end in {endings}; got {path.name!r}. Name it {path.stem or 'out'}{suffixes[0]}.")
    if path.is_dir():
        raise IsADirectoryError(f"--out must be a file; got {path} (a folder). Name a file in it.")
    check_folder(path.parent)
    return path


def check_folder(folder: Path) -> None:
    """Check that a folder can be made and written; make nothing.

    Raises:
        OSError: It cannot be made or written.
    """
    nearest = next(one for one in (folder, *folder.parents) if one.exists() or one == one.parent)
    if not nearest.is_dir():
        raise _refused(folder, "Not a directory")
    if not os.access(nearest, os.W_OK):
        raise _refused(folder, "Permission denied")


def make_folder(folder: Path) -> None:
    """Make a folder.

    Raises:
        OSError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error.strerror or str(error)) from error


def _refused(folder: Path, reason: str) -> OSError:
    return OSError(f"--out must lie in a folder that can be written; got {folder} ({reason}). Choose another place.")
