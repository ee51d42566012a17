"""Look at the files in a folder or at an address: names of shards, whether or not a manifest has them, and sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvdiff.files.paths import is_url

_NAME = re.compile(r"(train|test)-\d{6,}\.(tar|json)")


def shard_files(place: Path | str, storage_options: Mapping[str, Any]) -> set[str] | None:
    """Return the names of tars and indices of shards; None: the store cannot be listed.

    Args:
        place: Folder or address; one that does not exist holds none.
        storage_options: Options of fsspec's file system for an address.
    """
    try:
        paths = _listed(place, storage_options) if is_url(place) else os.listdir(place)
    except FileNotFoundError:
        return set()
    except Exception:  # every file system has errors of its own
        return None
    return {name for name in (path.rpartition("/")[2] for path in paths) if _NAME.fullmatch(name)}


def _listed(place: str, storage_options: Mapping[str, Any]) -> list[str]:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(place, **storage_options)
    files.invalidate_cache()
    return files.ls(root, detail=False)


def file_size(place: Path | str, name: str, storage_options: Mapping[str, Any]) -> int | None:
    """Return the size of a file in bytes; None: the store does not tell it."""
    from fsspec.core import url_to_fs

    try:
        if not is_url(place):
            return os.stat(place / name).st_size
        files, root = url_to_fs(place, **storage_options)
        return files.size(f"{root}/{name}")
    except Exception:  # every file system has errors of its own
        return None
