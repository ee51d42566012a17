"""Hashes of images by their pixels, whatever the file format, folder or compression."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from mvdiff.shapes import check_shapes


def pixel_hash(image: Tensor) -> str:
    """Return the SHA-256 of `<H> <W>` and a line feed, then the RGB bytes in the order [H, W, 3], in hex.

    Args:
        image: [3, H, W] uint8.

    Raises:
        ValueError: The image has another shape or is not uint8.
    """
    sizes = check_shapes(image=(image, "3 H W"))
    if str(image.dtype) != "torch.uint8":
        raise ValueError(f"image must be uint8; got {image.dtype}.")
    digest = hashlib.sha256(f"{sizes['H']} {sizes['W']}\n".encode())
    digest.update(image.cpu().permute(1, 2, 0).contiguous().numpy().data)
    return digest.hexdigest()


def content_hash(images: Mapping[str, Sequence[str]]) -> str:
    """Return the SHA-256 of the sorted lines `<sample id> TAB <view> TAB <pixel hash>`, in hex.

    Args:
        images: Pixel hashes of the views of each sample, by sample id.
    """
    lines = [f"{name}\t{view}\t{one}\n" for name, hashes in images.items() for view, one in enumerate(hashes)]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
