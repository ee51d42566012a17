"""Paths in files that people share: none tells where its maker keeps things.

| use | function | an absolute path becomes |
|---|---|---|
| it is opened again | `shared_path` | relative to the folder of the file, or `~/...` |
| it is only shown | `shared_name` | its last part |
| it stands inside a sentence | `shared_text` | relative to the current folder, `~/...`, or its last part |

Relative paths, hub ids and `mvdiff://` names stay as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from mvdiff.files.paths import expanded, real_path

_PATH = re.compile(r"(?<![\w~.:/\\+-])/[^\s/'\"<>|,;:()\[\]]+(?:/[^\s/'\"<>|,;:()\[\]]+)+/?")
"""An absolute path of two or more parts inside a sentence; one with spaces is found by its known beginning alone."""


def shared_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return a path that still leads to its place from a file in `folder`; `opened_from` reverses it.

    An absolute path becomes relative to `folder` if it lies in the folder or beside it, or `~/...` in the home folder.
    Elsewhere it becomes relative as well, unless only the root, or the folder of all homes, holds both: then it stays
    as the user typed it.
    """
    name = os.fspath(path)
    if not os.path.isabs(name):
        return name
    target, place, home = real_path(name), real_path(folder), real_path("~")
    root, at_home = Path(place.anchor), target.is_relative_to(home) and home != Path(home.anchor)
    leaves_home = at_home and not place.is_relative_to(home)
    if leaves_home or place.parent == root or not target.is_relative_to(place.parent):
        if at_home:
            return (Path("~") / target.relative_to(home)).as_posix()
        try:
            common = Path(os.path.commonpath((target, place)))
        except ValueError:  # different drives
            return name
        if common in (root, home.parent):
            return name
    return Path(os.path.relpath(target, place)).as_posix()


def opened_from(name: str, folder: str | os.PathLike[str]) -> str:
    """Return the path that a relative name leads to from `folder` if there is something, else the name itself."""
    beside = Path(folder) / name
    return str(real_path(beside)) if not os.path.isabs(name) and os.path.exists(beside) else name


def shared_name(name: str | os.PathLike[str]) -> str:
    """Return the last part of an absolute path, any other name unchanged.

    Example:
        >>> shared_name("/data/anna/sd2"), shared_name("models/sd2"), shared_name("owner/sd2")
        ('sd2', 'models/sd2', 'owner/sd2')
    """
    name = os.fspath(name)
    return PurePath(name).name if os.path.isabs(name) else name


def distinct_names(paths: Iterable[Path]) -> list[str]:
    """Return the last parts of paths, as many as make the names differ.

    Example:
        >>> distinct_names([Path("/a/x/out"), Path("/a/y/out")])
        ['x/out', 'y/out']
    """
    parts = [[part for part in path.parts if part != path.anchor] or [path.name] for path in paths]
    longest = max(map(len, parts), default=0)
    for count in range(1, longest + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names if longest else []


def shared_text(text: str, roots: Iterable[str | os.PathLike[str]] = ()) -> str:
    """Return a sentence with its absolute paths shortened.

    Args:
        text: Sentence, such as the message of an error.
        roots: Folders and files that the sentence may name; their names may hold spaces.

    Example:
        >>> shared_text("/data/in/a b/0.png must be a whole image file.", ["/data/in/a b"])
        'a b/0.png must be a whole image file.'
        >>> shared_text("base must be a folder; got '/data/in/sd2'.")
        "base must be a folder; got 'sd2'."
    """
    home = str(real_path("~"))
    places = {os.fspath(root) for root in roots if os.path.isabs(root)}
    for place in sorted(places - {home, os.path.sep}, key=len, reverse=True):
        text = _replaced(text, place.rstrip(os.path.sep), _shortened(place))
    for place in {str(expanded("~")), home}:
        if len(Path(place).parts) > 1:
            text = _replaced(text, place, "~")
    return _PATH.sub(lambda match: _shortened(match[0]), text)


def shared_values(value: Any, folder: str | os.PathLike[str]) -> Any:
    """Return JSON values whose texts carry no absolute path, for a file in `folder`.

    A text that is the absolute path of something there becomes a `shared_path`, and any other text a
    `shared_text`. Keys stay.
    """
    return _shared(value, folder, [text for text in _texts(value) if os.path.isabs(text) and os.path.lexists(text)])


def _shared(value: Any, folder: str | os.PathLike[str], roots: list[str]) -> Any:
    if isinstance(value, str):
        return shared_path(value, folder) if value in roots else shared_text(value, roots)
    if isinstance(value, Mapping):
        return {key: _shared(item, folder, roots) for key, item in value.items()}
    return [_shared(item, folder, roots) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _replaced(text: str, place: str, name: str) -> str:
    """Replace a path where it stands as a whole or begins a longer one."""
    return re.sub(rf"(?<![\w.~-]){re.escape(place)}(?![\w.-])", lambda _: name, text)


def _shortened(path: str) -> str:
    """Return an absolute path relative to the current folder or the home folder, else its last part."""
    whole = Path(os.path.abspath(path))
    for place, name in ((Path.cwd(), ""), (real_path("~"), "~/")):
        if len(place.parts) > 1 and whole != place and whole.is_relative_to(place):
            return name + whole.relative_to(place).as_posix()
    return whole.name
