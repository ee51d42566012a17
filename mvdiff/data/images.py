"""Read image and depth files into tensors; errors name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mvdiff.files.depths import SATURATED, known_values

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of files that are read as images."""
CHECK = "Run `mvdiff data check` on the data set's folder."
"""Remedy for a missing or broken file."""


def read_image_uint8(path: Path) -> Tensor:
    """Decode a JPEG, PNG or WebP file completely, as RGB uint8 [3, H, W].

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: Path, decode: bool = True) -> tuple[int, int]:
    """Return (width, height) of an image file; `decode` reads all of it to detect damage.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        if decode:
            image.load()
        return image.size


def read_depth(path: Path, units_per_metre: float = 1000) -> Tensor:
    """Return the depths of `read_counted_depth`."""
    return read_counted_depth(path, units_per_metre)[0]


def read_counted_depth(path: Path, units_per_metre: float = 1000) -> tuple[Tensor, int]:
    """Decode a 16-bit PNG depth map completely, as float32 [H, W] in metres, 0 where unknown.

    Args:
        path: The file.
        units_per_metre: File value that stands for one metre; 1000 for millimetres.

    Returns:
        The depths, and the number of pixels that hold 65535, which means no depth.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is empty, truncated or not a 16-bit PNG with one channel.
    """
    with _opened(path) as image:
        values = np.array(image)
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise ValueError(
            f"{path} must be a 16-bit PNG with one channel; got {values.dtype} of shape {values.shape}. {CHECK}"
        )
    return torch.from_numpy(known_values(values).astype(np.float32) / units_per_metre), int((values == SATURATED).sum())


def resize_depths(depths: Tensor, height: int, width: int) -> Tensor:
    """Resize depths [H, W] by nearest neighbour (no mixed depths at edges); ties go right and down.

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
        raise FileNotFoundError(f"{path} does not exist. {CHECK}") from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a damaged PNG chunk
        raise ValueError(
            f"{path} must be a whole image file; got one that cannot be decoded ({error}). {CHECK}"
        ) from error
