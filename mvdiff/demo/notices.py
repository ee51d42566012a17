"""Short HTML for the page: messages, and the frame of a result."""

from __future__ import annotations

import logging
from html import escape

from mvdiff.files.sharing import shared_text

_log = logging.getLogger(__name__)
_BOX = "padding: .6rem .9rem; border-radius: .4rem; overflow-wrap: anywhere; border: 1px solid "
_RED = f"{_BOX} var(--error-border-color); background: var(--error-background-fill); color: var(--error-text-color)"
_PLAIN = f"{_BOX} var(--border-color-primary); background: var(--block-background-fill); color: var(--body-text-color)"
_FRAME = "width: 100%; height: 54rem; border: 0"


def alert(title: str, text: str) -> str:
    """Return an error message; it stays until the page replaces it."""
    return f'<div role="alert" style="{_RED}"><strong>{escape(title)}:</strong> <bdi>{escape(text)}</bdi></div>'


def status(text: str) -> str:
    """Return a message that is no error."""
    return f'<div role="status" style="{_PLAIN}">{escape(text)}</div>'


def frame(document: str) -> str:
    """Return a frame that shows an HTML document."""
    return f'<iframe title="Result" style="{_FRAME}" allow="fullscreen" srcdoc="{escape(document)}"></iframe>'


def explain(error: Exception) -> str:
    """Return a sentence for the visitor; the traceback of an unforeseen error goes to the terminal."""
    import torch

    if isinstance(error, ValueError | OSError):
        return shared_text(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return "the device has too little memory for this model. Try --dtype bfloat16."
    _log.error("generation failed", exc_info=error)
    return f"generation failed: {shared_text(str(error))}. See the terminal of mvdiff demo for details."
