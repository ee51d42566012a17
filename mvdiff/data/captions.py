"""Caption files: the first line of a text file is the prompt."""

from __future__ import annotations

from pathlib import Path

from mvdiff.files.text import read_lines


class EmptyCaptionError(ValueError):
    """Raised if a caption is empty."""


def read_caption(path: Path) -> str:
    """Read the prompt, the first line of a caption file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The first line is empty or not UTF-8.
    """
    try:
        line = read_lines(path)[0]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} must hold a caption; the file does not exist.") from error
    if not line:
        raise EmptyCaptionError(f"{path} must have the prompt in its first line; got an empty line.")
    return line
