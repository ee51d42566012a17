"""Hashes of images and of sets of images, so that results name the pixels that they were measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mvdiff.shapes import check_shapes


def pixel_hash(image: Tensor) -> str:
    r"""Return the SHA-256 of an image's pixels, in hex; how the file stores them does not matter.

    The hash is over the text `"<H> <W>\n"`, then the RGB bytes of each pixel, row by row.

    Args:
        image: uint8 [3, H, W]; bytes of another dtype, which a source of one's own may have, are hashed as they are.

    Raises:
        ValueError: The image has another shape.

    Example:
        >>> import numpy as np  # the same hash without this package
        >>> pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)  # [H, W, 3]
        >>> by_hand = hashlib.sha256(b"2 3\n" + pixels.tobytes()).hexdigest()
        >>> pixel_hash(torch.from_numpy(pixels).permute(2, 0, 1)) == by_hand
        True
    """
    sizes = check_shapes(image=(image, "3 H W"))
    digest = hashlib.sha256(f"{sizes['H']} {sizes['W']}\n".encode())
    digest.update(image.cpu().permute(1, 2, 0).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def content_hash(images: Mapping[str, Sequence[str]]) -> str:
    r"""Return the SHA-256 of a set of samples, in hex; it depends on neither folders nor their order.

    The hash is over the sorted UTF-8 lines `"<sample id>\t<view>\t<pixel hash>\n"`, with views counted from 0.

    Args:
        images: `pixel_hash` of each view, by sample id.

    Example:
        >>> content_hash({"b": ["01"], "a": ["02", "03"]}) == content_hash({"a": ["02", "03"], "b": ["01"]})
        True
        >>> content_hash({"a": ["02", "03"]}) == content_hash({"a": ["03", "02"]})
        False
    """
    lines = [
        f"{sample_id}\t{view}\t{pixels}\n".encode(errors="surrogatepass")
        for sample_id, hashes in images.items()
        for view, pixels in enumerate(hashes)
    ]
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()
