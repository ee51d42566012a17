"""Images as numbers and as files: float in [-1, 1], integers in [0, 255], PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode; SyntaxError for a broken chunk of a PNG."""


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to integers in [0, 255]; values outside are clipped. The shape is kept.

    Raises:
        ValueError: A value is NaN or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist()
        [0, 128, 255, 255]
    """
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images must be finite; got NaN or inf. Look for an overflow in the model (try float32).")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images_uint8: Tensor) -> Tensor:
    """Map [0, 255] to float32 images in [-1, 1]; the inverse of `to_uint8`.

    Images that were interpolated are float already; their rounding errors are clipped.
    """
    return (images_uint8.float() / 127.5 - 1).clamp(-1, 1)


def read_png(path: Path) -> Tensor:
    """Read an image of a sample: uint8 [3, H, W].

    Raises:
        ValueError: It cannot be decoded.
    """
    return torch.from_numpy(read_pixels(path, "image", "RGB")).permute(2, 0, 1).contiguous()


def read_given_png(path: Path) -> tuple[Tensor, Tensor]:
    """Read what was given of a view: uint8 [3, H, W], and [1, H, W] float, 1 where it was given.

    Raises:
        ValueError: It cannot be decoded, or has no transparency.
    """
    pixels = read_pixels(path, "given view")
    if pixels.ndim != 3 or pixels.shape[-1] != 4:
        raise ValueError(f"given view must be an RGBA image; got shape {list(pixels.shape)}, in {path}.")
    values = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return values[:3], (values[3:] > 127).float()


def read_pixels(path: Path, name: str, mode: str | None = None) -> np.ndarray:
    """Decode a file as Pillow gives it, or in a mode of Pillow's; `name` is named in the ValueError if it cannot be."""
    try:
        with Image.open(path) as image:
            return np.array(image if mode is None else image.convert(mode))
    except UNREADABLE as error:
        raise ValueError(f"{name} must be readable; got {error}, in {path}. Generate the sample again.") from error


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode an image [H, W, 3] or [H, W, 4] uint8, or a depth map [H, W] uint16, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
