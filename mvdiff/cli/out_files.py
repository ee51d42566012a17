"""Checks of `--out` before anything is made."""

from __future__ import annotations

import os
from pathlib import Path


def check_out(path: Path, suffix: str) -> None:
    """Check that a file has a suffix, such as ".html", and can be written; make nothing.

    Raises:
        ValueError: It has another suffix.
        OSError: It is a folder, or its folder cannot be made or written.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"--out must end in {suffix}; got {path.name!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"--out must be a file; got {path} (a folder).")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raise OSError where a folder cannot be made or written; make nothing."""
    nearest = next(one for one in (folder, *folder.parents) if one.exists() or one == one.parent)
    if not nearest.is_dir():
        raise _refused(folder, "Not a directory")
    if not os.access(nearest, os.W_OK):
        raise _refused(folder, "Permission denied")


def make_folder(folder: Path) -> None:
    """Make a folder; the OSError where it cannot be made names `--out`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error.strerror or str(error)) from error


def _refused(folder: Path, reason: str) -> OSError:
    return OSError(f"--out must lie in a folder that can be written; got {folder} ({reason}).")
