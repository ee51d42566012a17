"""Contexts in which checks run: nothing is downloaded, and libraries print nothing of their own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from transformers.utils import logging as bars


@contextmanager
def offline() -> Iterator[None]:
    """Keep the libraries from downloading what is missing."""
    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    try:
        yield
    finally:
        os.environ.pop("HF_HUB_OFFLINE")
        if before[0] is not None:
            os.environ["HF_HUB_OFFLINE"] = before[0]
        constants.HF_HUB_OFFLINE = before[1]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own remarks and bars out of the report."""
    shown, before = bars.is_progress_bar_enabled(), logging.root.manager.disable
    bars.disable_progress_bar()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
        if shown:
            bars.enable_progress_bar()
