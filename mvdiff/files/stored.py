"""Files that lie inside an archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredFile:
    """A file inside an archive, which readers take in place of a path.

    Attributes:
        name: Where the file lies, named in errors.
        content: Its bytes.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name
