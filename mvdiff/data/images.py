"""Image files -> tensors, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""File endings that are read as images."""


def read_image_uint8(path: Path) -> Tensor:
    """Decode an image file completely.

    Args:
        path: A JPEG, PNG or WebP file.

    Returns:
        [3, H, W] uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: Path) -> tuple[int, int]:
    """Decode an image file completely, so that damage shows, and return (width, height).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated or not an image.
    """
    with _opened(path) as image:
        image.load()
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} must exist; it does not. Run `mvdiff data check` on the data set's folder."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a damaged PNG chunk
        raise ValueError(
            f"{path} must be a whole image file; got one that cannot be decoded ({error}). "
            "Run `mvdiff data check` on the data set's folder and fetch what it names again."
        ) from error
