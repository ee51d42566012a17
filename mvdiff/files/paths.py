"""Names of files: `~`, hidden files, links, endings, and names that look the same in other forms of Unicode."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

_log = logging.getLogger(__name__)

_OF_SYSTEMS = ("__macosx", "thumbs.db", "desktop.ini")
"""Names, in lower case, of what macOS and Windows put into folders."""
MAX_NAME_BYTES = 255
"""Longest name of a file or folder, in bytes of UTF-8, on common file systems."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~user` replaced by the home folder; an unknown user's name is left as it is."""
    return Path(os.path.expanduser(path))


def is_url(place: str | os.PathLike[str]) -> bool:
    """Return True for an address such as s3://bucket/data, False for a path.

    Example:
        >>> is_url("s3://bucket/data"), is_url("data/mp3d"), is_url("C:/data")
        (True, False, False)
    """
    return isinstance(place, str) and "://" in place


def folder_or_url(place: str | os.PathLike[str]) -> Path | str:
    """Return an address as it is, without a final slash, and anything else as an expanded path."""
    return place.rstrip("/") if is_url(place) else expanded(place)


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path with `~` expanded and links followed, as far as they lead."""
    return Path(os.path.realpath(expanded(path)))  # Path.resolve raises for a link to itself


def expanded_values(values: Any) -> Any:
    """Expand `~` at the start of every text and path in settings: texts, paths, lists, tuples and mappings of them.

    Example:
        >>> expanded_values({"root": "~/pano", "seed": 1})["root"] == os.path.expanduser("~/pano")
        True
    """
    if isinstance(values, str):
        return os.path.expanduser(values)
    if isinstance(values, Path):
        return expanded(values)
    if isinstance(values, Mapping):
        return {key: expanded_values(value) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(map(expanded_values, values))
    return values


def same_name(name: str) -> str:
    """Return the form in which names are compared: NFC, whichever form the file system stores."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Return True for names that no list of data shows: dot files, macOS's `__MACOSX`, Windows's `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def own_name(path: Path) -> str:
    """Return the name by which a user calls a file or folder: that of a link itself, not of its target.

    For `.`, return the shell's name of the current folder ($PWD), which may be a link.
    """
    if path.name not in ("", ".."):
        return same_name(path.name)
    here = os.environ.get("PWD", "")
    if path == Path() and here and os.path.isdir(here) and os.path.samefile(here, "."):
        return same_name(Path(here).name)
    return same_name(path.resolve().name)


def kind_of(path: str | os.PathLike[str]) -> Literal["folder", "file", "broken link", "nothing"]:
    """Say what a path names, with links followed; devices and pipes count as files.

    A link is broken if it leads to nothing, to itself or into a folder that must not be read.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a NUL character
        return "broken link" if os.path.islink(path) else "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file"


def lack_of(path: Path) -> str | None:
    """Say why a path is no file with content: "does not exist", "is empty", ...; None: it is one."""
    kind = kind_of(path)
    if kind != "file":
        return "does not exist" if kind == "nothing" else f"is a {kind}"
    return None if path.stat().st_size else "is empty"


def visible(folder: Path, *endings: str) -> list[Path]:
    """List what a folder holds, sorted by name, without hidden names.

    Args:
        folder: The folder; it must exist.
        *endings: Endings to list, in lower case and with the dot, such as ".jpg"; they match without regard to case.
            Without any, everything is listed.
    """
    paths = (folder / name for name in sorted(os.listdir(folder)) if not is_hidden(name))
    return [path for path in paths if not endings or path.suffix.lower() in endings]


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files) at and below a root, sorted, without hidden names.

    Links are followed, after everything that is reached without them; each folder is visited once, so that a link to
    a parent ends. A broken link is left out with a warning. A caller may remove names from the folders' list to leave
    those folders out.
    """
    queue, links, seen = deque([root]), deque[Path](), set()
    while queue or links:
        folder = (queue or links).popleft()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as found:
                shown = sorted((one for one in found if not is_hidden(one.name)), key=lambda one: one.name)
        except OSError as error:
            _log.warning("%s cannot be read (%s) and is left out.", folder, error.strerror)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        linked = {one.name for one in shown if one.is_symlink()}
        kinds = {one.name: kind_of(one) if one.name in linked else _kind_here(one) for one in shown}
        for name in (name for name, kind in kinds.items() if kind == "broken link"):
            _warn_of_link(folder / name)
        subfolders = [name for name, kind in kinds.items() if kind == "folder"]
        yield folder, subfolders, [name for name, kind in kinds.items() if kind == "file"]
        for name in subfolders:
            (links if name in linked else queue).append(folder / name)


@lru_cache(maxsize=1024)  # commands walk a folder several times
def _warn_of_link(path: Path) -> None:
    _log.warning("%s is a broken link and is left out.", path)


def _kind_here(entry: os.DirEntry[str]) -> str:
    """Return the kind of an entry that is no link, which the folder knows; no file is looked at."""
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def ignores_case(folder: Path) -> bool:
    """Return True if the file system of a folder, which need not exist, takes `a` and `A` for one name."""
    nearest = next((one for one in (folder, *folder.absolute().parents) if kind_of(one) == "folder"), Path("/"))
    try:
        with tempfile.NamedTemporaryFile(prefix=".case-", suffix=".partial", dir=nearest) as probe:
            path = Path(probe.name)
            return os.path.exists(path.with_name(path.name.swapcase()))
    except OSError:  # nothing can be written there, which the writer will say
        return False


def existing(path: Path) -> Path:
    """Return the file or folder that a path names, also where Unicode form or case of the ending differ.

    Returns:
        `path` itself if it exists or nothing else matches; else the entry of its folder whose name is the same in NFC
        and with the ending in lower case.
    """
    if os.path.exists(path) or not path.name:
        return path
    try:
        changed = os.stat(path.parent).st_mtime_ns
    except OSError:
        return path
    name = _names_in(str(path.parent), changed).get(comparable(path.name))
    return path if name is None else path.parent / name


def first_existing(paths: Sequence[Path]) -> Path:
    """Return the first file; else the first that `existing` finds, the first broken link or the first path."""
    exact = next((path for path in paths if kind_of(path) == "file"), None)  # before any folder is listed
    if exact is not None:
        return exact
    broken = next((path for path in paths if os.path.islink(path)), paths[0])
    return next((path for path in map(existing, paths) if kind_of(path) == "file"), broken)


def comparable(name: str) -> str:
    """Return a file name in NFC with its ending in lower case; names that `existing` takes for one are equal."""
    stem, ending = os.path.splitext(same_name(name))
    return stem + ending.lower()


@lru_cache(maxsize=256)
def _names_in(folder: str, changed: int) -> dict[str, str]:
    """Return the names in a folder by their comparable form; `changed`, the folder's time, keeps the cache fresh."""
    return {comparable(name): name for name in sorted(os.listdir(folder), reverse=True) if not is_hidden(name)}


def listed_name(name: str, where: str, inside: bool = True) -> str:
    """Return a name from a list in the form in which names are compared, without `./` and a final slash.

    Args:
        name: Path relative to the list's folder, with forward slashes.
        where: File and line or row, named in errors.
        inside: Refuse absolute paths and `..`. False for files beside which nothing is written.

    Raises:
        ValueError: The name is empty, too long, has backslashes or, with `inside`, leads out of the folder.

    Example:
        >>> listed_name("./rooms/café.jpg", "train.txt:1")
        'rooms/café.jpg'
    """
    path = PurePosixPath(same_name(name))
    if path.name in ("", "..") or "\0" in name:
        raise ValueError(f"{where} must name a file or folder; got {name!r}.")
    if "\\" in name:
        raise ValueError(f"{where} must separate folders by /, not by a backslash; got {name!r}.")
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} must be Unicode text; got {name!r}.") from error
    if longest > MAX_NAME_BYTES:
        raise ValueError(f"{where} must have names of at most {MAX_NAME_BYTES} bytes; got {name[:40]!r}...")
    if inside and (path.is_absolute() or ".." in path.parts):
        raise ValueError(f"{where} must be a path below the folder of the list; got {name!r}.")
    return str(path)


def below(root: Path, name: str) -> Path:
    """Return the path that a `listed_name` means below a folder, each part as `existing` finds it."""
    path = root / name
    if not os.path.exists(path):
        path = root
        for part in PurePosixPath(name).parts:
            path = existing(path / part)
    return path
