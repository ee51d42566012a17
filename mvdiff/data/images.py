"""Image files -> tensors, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""File endings that are read as images."""
CHECK = "Run `mvdiff data check` on the data set's folder."
"""Remedy for a missing or broken file."""


def read_image_uint8(path: Path) -> Tensor:
    """Decode a JPEG, PNG or WebP file completely: [3, H, W] uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: Path, decode: bool = True) -> tuple[int, int]:
    """Return (width, height) of an image file; `decode` reads all of it, to find damage.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        if decode:
            image.load()
        return image.size


def read_depth(path: Path, units_per_metre: float = 1000) -> Tensor:
    """Decode a depth map, a PNG of one channel of 16 bits, completely: [H, W] float32 metres, 0 = none.

    Args:
        path: The file.
        units_per_metre: Value at one metre; by default values are millimetres.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated, or not such a PNG.
    """
    with _opened(path) as image:
        values = np.array(image)
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise ValueError(
            f"{path} must be a PNG of one channel of 16 bits; got {values.dtype} of shape {values.shape}. {CHECK}"
        )
    return torch.from_numpy(values.astype(np.float32) / units_per_metre)


def resize_depths(depths: Tensor, height: int, width: int) -> Tensor:
    """Resize depths [H, W]: each pixel takes the value of the pixel nearest its centre, a tie right and down.

    Example:
        >>> resize_depths(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 1, 2).tolist()
        [[2.0, 4.0]]
    """
    return interpolate(depths[None, None], (height, width), mode="nearest-exact")[0, 0]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} must exist; it does not. {CHECK}") from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a damaged PNG chunk
        raise ValueError(
            f"{path} must be a whole image file; got one that cannot be decoded ({error}). {CHECK}"
        ) from error
