"""Names of files: `~`, hidden files, and names that look the same in other forms of Unicode."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~user` replaced by the home folder."""
    return Path(path).expanduser()


def same_name(name: str) -> str:
    """Return the form in which names are compared: NFC, whichever form the file system stores."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Return True for names that no list of data shows: dot files, macOS's `._` companions and `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"
