"""Image files -> tensors, with errors that name the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # panoramas are large
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} must exist; it does not. Run `mvdiff data check` on the data set's folder."
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} must be a whole image file; got one that cannot be decoded ({error}). "
            "Run `mvdiff data check` on the data set's folder and fetch what it names again."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_unit_range(images_uint8: Tensor) -> Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]."""
    return images_uint8.float().mul_(2 / 255).sub_(1)
