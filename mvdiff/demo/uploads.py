"""Visitors' pictures: where the server keeps them, and which ones it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mvdiff.files.images import BrokenImage, DecodedImage, decode_image, stored_size
from mvdiff.report.images import data_uri

MAX_UPLOAD_MB = 32
MAX_PIXELS = 64_000_000
"""Largest width x height of a picture: more than the 50 megapixels of phones; 0.8 GB in float32."""
KEPT_SECONDS = 3600
"""Time for which an upload is kept while the server runs."""
PREVIEW_SIZE = (480, 240)
_VARIABLE = "GRADIO_TEMP_DIR"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Give Gradio a new folder for uploads, which no other user of the machine can read; remove it at the end.

    Gradio's own choice is one folder for all servers of the machine, which outlives them. `GRADIO_TEMP_DIR`, where it
    is set, is the folder in which the new one is made.
    """
    before = os.environ.get(_VARIABLE)
    if before:
        Path(before).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="mvdiff-demo-", dir=before or None, ignore_cleanup_errors=True) as made:
        folder = Path(made).resolve()
        os.environ[_VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before


def check_upload(path: str | Path) -> None:
    """Check from its header that a picture may be decoded.

    Raises:
        ValueError: The picture is gone, broken or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"image must be uploaded again; {path.name} was removed, since uploads are kept for an hour.")
    try:
        width, height = stored_size(path, max_pixels=sys.maxsize)
    except BrokenImage as error:
        raise _unreadable(path, error) from error
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 10**6} megapixels"
        raise ValueError(f"image must have at most {limit}; got {path.name} of {width}x{height} pixels. Scale it down.")


def read_upload(path: str | Path) -> DecodedImage:
    """Decode a picture completely.

    Raises:
        ValueError: The picture is gone, broken or too large, or must not be read.
    """
    check_upload(path)
    try:
        return decode_image(Path(path), Path(path).name)
    except BrokenImage as error:
        raise _unreadable(Path(path), error) from error


def preview(path: str | Path) -> str:
    """Return HTML that shows a picture as it is decoded, upright and with its size.

    Raises:
        ValueError: See `read_upload`.
    """
    image = read_upload(path).rgb
    width, height = image.size
    image.thumbnail(PREVIEW_SIZE)
    name = escape(Path(path).name)
    source = data_uri(np.asarray(image))
    return f'<img alt="{name}" src="{source}" style="max-width: 100%"><br>{name}, {width} x {height} pixels'


@contextmanager
def named_without_folder(path: object) -> Iterator[None]:
    """Name a picture in errors by its file name; the server's folders are no visitor's business."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not isinstance(path, str | Path) or str(path) not in str(error):
            raise
        raise ValueError(str(error).replace(str(path), Path(path).name)) from error


def _unreadable(path: Path, error: BrokenImage) -> ValueError:
    return ValueError(f"image must be a complete picture file; {path.name} cannot be decoded ({error.reason}).")
