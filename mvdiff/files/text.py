"""Read text, lists, JSON and YAML that people and other programs wrote; errors name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    r"""Read UTF-8 text without its byte order mark; CR LF and CR become LF.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not UTF-8, or not a file.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8; byte {error.start} is not.") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} must be a file; it is a folder.") from error


def read_lines(path: Path) -> list[str]:
    r"""Read the lines of a text file, stripped, blank ones included; only LF, CR LF and CR end a line.

    `str.splitlines` would also split at U+2028 and U+0085, which occur inside prompts copied from web pages.
    """
    return [line.strip() for line in read_text(path).split("\n")]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not UTF-8, not JSON, or nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON ({_reason(error)}).") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object; raise like `read_json`, and ValueError for another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(value).__name__}.")
    return value


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raise FileNotFoundError, or ValueError where it is not UTF-8, not YAML or nested too deeply."""
    import yaml

    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be YAML ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())
