"""Say in words why torch refused to unpickle a file; its own text advises to switch the check off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_MARKS = ("weights_only", "Weights only load failed", "WeightsUnpickler")
_NAMES = (
    re.compile(r"GLOBAL ([\w.]+\w)"),
    re.compile(r"[Uu]nsupported class ([\w.]+\w)"),
    re.compile(r"unrecognized function <[\w -]*?([\w.]+)( at 0x\w+)?>"),
)
_DETAIL = re.compile(r"WeightsUnpickler error: ([^\n]+)")


class UnsafeFile(ValueError):
    """Raised for a file that could run code if it were unpickled."""


@contextmanager
def plain_refusals(what: str, path: object) -> Iterator[None]:
    """Replace the error of a library that refused to unpickle a file; other errors pass.

    Args:
        what: The part or setting, such as "checkpoint".
        path: The file.

    Raises:
        UnsafeFile: The file holds more than tensors and plain values.
    """
    try:
        yield
    except Exception as error:
        name = refused_name(error)
        if name is None or isinstance(error, UnsafeFile):
            raise
        raise UnsafeFile(
            f"{what} must hold only tensors and plain values; got a pickled {name}, which could run code when it is "
            f"read, in {path}. Nothing in it was run. Get the weights as .safetensors, or from someone you trust."
        ) from None  # the text of the library advises to switch the check off


def refused_name(error: BaseException) -> str | None:
    """Return the class or function for which torch refused a file; None for another error.

    The errors that led to `error` are looked at, too, since libraries raise their own over torch's.

    Example:
        >>> refused_name(RuntimeError("Weights only load failed. ... Unsupported global: GLOBAL posix.system was not"))
        'posix.system'
    """
    for text in map(str, _chain(error)):
        if any(mark in text for mark in _MARKS):
            found = (pattern.search(text) for pattern in _NAMES)
            return next((match[1] for match in found if match), None)
    return None


def plain_text(error: BaseException) -> str:
    """Return an error's text without torch's advice on `weights_only`, for files that are no pickle of tensors.

    Example:
        >>> plain_text(RuntimeError("Weights only load failed. WeightsUnpickler error: Unsupported operand 110"))
        'no pickle of tensors (Unsupported operand 110)'
    """
    text = str(error)
    if not any(mark in text for mark in _MARKS):
        return text
    if "TorchScript" in text:
        return "a TorchScript program"
    detail = _DETAIL.search(text)
    return f"no pickle of tensors ({detail[1].strip()})" if detail else "no pickle of tensors"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and all(error is not one for one in found):
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
