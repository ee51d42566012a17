"""Where a page or a video goes: checked before anything is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def check_out(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path of a file to write after checking its ending and that its folder can be written.

    Args:
        path: The file; its folder is made.
        suffixes: The endings that it may have, as ".html".

    Raises:
        ValueError: It has another ending.
        OSError: It is a folder, or its folder cannot be made or written.
    """
    path, endings = Path(path), " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out must end in {endings}; got {path.name!r}. Name it {path.stem or 'out'}{suffixes[0]}.")
    if path.is_dir():
        raise IsADirectoryError(f"--out must be a file; got {path} (a folder). Name a file in it.")
    make_folder(path.parent)
    return path


def make_folder(folder: Path) -> None:
    """Make a folder that can be written.

    Raises:
        OSError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise OSError(
            f"--out must lie in a folder that can be written; got {folder} ({error.strerror or error}). "
            "Choose another place."
        ) from error
