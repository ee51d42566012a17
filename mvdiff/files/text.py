"""Read text, lists, JSON and YAML that people and other programs wrote; errors name the file."""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 26
"""Largest text file that is read, 64 MiB."""
MAX_YAML_BYTES = 1 << 20
"""Largest YAML file that is read, 1 MiB."""
MAX_DEPTH = 100
"""Most levels of lists and objects inside each other."""
MAX_NODES = 1 << 17
"""Most values on one level of a YAML file, with its aliases written out."""


def read_text(path: Path, max_bytes: int = MAX_BYTES, comment: str | None = None) -> str:
    r"""Read UTF-8 text without its byte order mark; CR LF and CR become LF.

    Args:
        path: The file.
        max_bytes: Largest size that is read.
        comment: Start of lines that may hold any bytes and are read as blank, such as "#"; None: there are none.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not UTF-8, holds NUL characters, is too large, or is not a file.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else max_bytes  # a pipe has no size
            content = file.read(min(size, max_bytes) + 1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} must be a file; it is a folder.") from error
    if len(content) > max_bytes:
        raise ValueError(f"{path} must be a text file of at most {max_bytes >> 20} MiB; it is larger.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} must be text in UTF-8; it is in UTF-16. Save it as UTF-8.")
    if comment is not None:
        content = _without_comments(content, comment.encode())
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8; byte {error.start} is not.") from error
    if "\0" in text:
        raise ValueError(f"{path} must be text in UTF-8; it holds NUL characters, as binary files and UTF-16 do.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_comments(content: bytes, start: bytes) -> bytes:
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    marks = codecs.BOM_UTF8 + b" \t"
    return b"\n".join(b"" if line.lstrip(marks).startswith(start) else line for line in lines)


def read_lines(path: Path, comment: str | None = None) -> list[str]:
    r"""Read the lines of a text file, stripped, blank ones included; only LF, CR LF and CR end a line.

    `str.splitlines` would also split at U+2028 and U+0085, which occur inside prompts copied from web pages. A byte
    order mark may start any line, as in lists that were joined. For `comment` and errors see `read_text`.
    """
    return [line.lstrip("\ufeff").strip() for line in read_text(path, comment=comment).split("\n")]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not UTF-8, or `parse_json` fails.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        where: File, and line or entry, named in errors.

    Raises:
        ValueError: The text is not JSON, lists and objects are nested more than `MAX_DEPTH` deep, a whole number has
            more than 64 bits, or a string holds a NUL character or half of a surrogate pair.

    Example:
        >>> parse_json("[1, 2", "rig.json")
        Traceback (most recent call last):
        ...
        ValueError: rig.json must be JSON (Expecting ',' delimiter: line 1 column 6 (char 5)).
    """
    try:
        value = json.loads(text, parse_int=_whole)
        _check_nesting([value], _children)
        if "\\u" in text:  # only escapes can make these characters
            _check_strings(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be JSON ({_reason(error)}).") from error
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object; raise like `read_json`, and ValueError for another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(value).__name__}.")
    return value


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not UTF-8 or not YAML, is nested more than `MAX_DEPTH` deep, or its aliases stand for more
            than `MAX_NODES` values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, token: type) -> None:  # its time is quadratic in the depth
            if self.flow_level > MAX_DEPTH:
                raise RecursionError
            super().fetch_flow_collection_start(token)

    text = read_text(path, MAX_YAML_BYTES)
    try:
        loader = Loader(text)
        try:
            root = loader.get_single_node()
            _check_nesting([root], _yaml_children)
            return None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} must be YAML ({_reason(error)}).") from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; an empty file has none; raise like `read_yaml`, and ValueError for other values."""
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} must hold YAML settings, `name: value`; got {type(values).__name__}.")
    return values


def _whole(digits: str) -> int:
    value = int(digits) if len(digits) < 30 else None
    if value is None or not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"whole numbers must have at most 64 bits; got {digits[:30]}")
    return value


def _check_nesting(level: list[Any], children: Callable[[Any], Iterable[Any]]) -> None:
    """Raise ValueError if values are nested too deeply, or a level holds too many once aliases are written out."""
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            below += children(value)
            if children is _yaml_children and len(below) > MAX_NODES:
                raise ValueError(f"its aliases stand for more than {MAX_NODES} values")
        if not below:
            return
        level = below
    raise RecursionError


def _children(value: Any) -> Iterable[Any]:
    """Return the lists and objects inside a list or an object."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in inside if isinstance(child, dict | list)]


def _yaml_children(node: Any) -> Iterable[Any]:
    if not isinstance(getattr(node, "value", None), list):
        return ()
    return [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("strings must not hold NUL characters or halves of surrogate pairs")
    elif isinstance(value, dict):
        for inside in (*value, *value.values()):
            _check_strings(inside)
    elif isinstance(value, list):
        for inside in value:
            _check_strings(inside)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:300]
