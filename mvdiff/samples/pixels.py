"""Conversion of images between float in [-1, 1], integers in [0, 255] and PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvdiff.files.images import BrokenImage, read_image_uint8, read_values


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8 in [0, 255] of the same shape, clipping values outside.

    Raises:
        ValueError: A value is NaN or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist()
        [0, 128, 255, 255]
    """
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images must be finite; got NaN or inf. The model may have overflowed: try float32.")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images_uint8: Tensor) -> Tensor:
    """Map images in [0, 255] to float32 in [-1, 1] of the same shape: the inverse of `to_uint8`.

    Float input (interpolated images) is allowed; values slightly outside the range are clipped.
    """
    return (images_uint8.float() / 127.5 - 1).clamp(-1, 1)


def read_png(path: Path) -> Tensor:
    """Read an opaque image as RGB uint8 [3, H, W], see `mvdiff.files.images`.

    Raises:
        ValueError: The file cannot be decoded or must not be read.
    """
    with naming_broken("image", path):
        return read_image_uint8(path)


def read_given_png(path: Path) -> tuple[Tensor, Tensor]:
    """Read the given part of a view: uint8 [3, H, W] pixels and float [1, H, W] `known`, 1 where given.

    Raises:
        ValueError: The file cannot be decoded or is not RGBA.
    """
    with naming_broken("given view", path):
        pixels = read_values(path)
    if pixels.ndim != 3 or pixels.shape[-1] != 4:
        raise ValueError(f"given view must be an RGBA image; got shape {list(pixels.shape)}, in {path}.")
    values = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return values[:3], (values[3:] > 127).float()


@contextmanager
def naming_broken(kind: str, path: Path) -> Iterator[None]:
    """Say which kind of image of a sample is missing or broken, and what to do."""
    try:
        yield
    except (FileNotFoundError, BrokenImage) as error:
        reason = error.reason if isinstance(error, BrokenImage) else "it does not exist"
        raise ValueError(f"{kind} {path} cannot be read ({reason}). Generate the sample again.") from error


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode an image [H, W, 3] or [H, W, 4] uint8, or a depth map [H, W] uint16, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
