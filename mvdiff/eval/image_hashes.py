"""Hashes of images, of geometry and of sets of samples, so that results name what they were measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mvdiff.shapes import check_shapes

SET_HASHES = {"images": "content_hash", "geometry": "geometry_hash", "panoramas": "panoramas_hash"}
"""Entries of results that hold hashes by sample id -> entry with the hash of them all."""
WORDS = {"images": "images", "geometry": "cameras or depths", "panoramas": "panoramas"}
"""The same entries -> words for what their hashes are of."""


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


def geometry_hash(
    K: Tensor, R: Tensor, t: Tensor | None = None, depths: Tensor | None = None, covered: Tensor | None = None
) -> str:
    r"""Return the SHA-256 of a sample's cameras, depths and covered part, in hex.

    Values are rounded to whole steps, so that neither the last digits of a processor nor files of whole millimetres
    change the hash. It is over, for each argument that is not None, the text `"<name> <shape>\n"` and the steps as
    64-bit integers, little-endian.

    Args:
        K: [V, 3, 3] intrinsics, in steps of 0.001 pixels.
        R: [V, 3, 3] rotations, in steps of 1e-5.
        t: [V, 3] camera centres, in steps of 0.1 mm; None counts as zeros.
        depths: [V, H, W] depths, in steps of 1 mm.
        covered: [V, 1, H, W] bool, the pixels that a partial panorama shows.

    Example:
        >>> eye = torch.eye(3)[None]
        >>> geometry_hash(eye, eye + 1e-7) == geometry_hash(eye, eye, torch.zeros(1, 3))
        True
        >>> geometry_hash(eye, eye) == geometry_hash(eye, eye, depths=torch.ones(1, 2, 2))
        False
    """
    t = K.new_zeros(len(K), 3) if t is None else t
    digest = hashlib.sha256()
    steps_of = {"K": (K, 1e3), "R": (R, 1e5), "t": (t, 1e4), "depths": (depths, 1e3), "covered": (covered, 1)}
    for name, (values, steps) in steps_of.items():
        if values is not None:
            whole = (values.cpu().double() * steps).nan_to_num(posinf=0, neginf=0).round().long()
            digest.update(f"{name} {' '.join(map(str, whole.shape))}\n".encode())
            digest.update(whole.contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def check_hashes(entry: Mapping[str, Any], where: str, side: str = "") -> None:
    """Check the hashes and sizes by sample id in an entry of a file.

    Args:
        entry: Description of one side of an evaluation, or a manifest; may lack any of them.
        where: File, and a remedy, for the error.
        side: Name of the entry with a dot, for the error.

    Raises:
        ValueError: They have the wrong type.
    """
    for key in (*SET_HASHES, "sizes"):
        by_id = entry.get(key, {})
        is_sound = _is_texts if key == "images" else lambda value: isinstance(value, str)
        if not isinstance(by_id, Mapping) or not all(map(is_sound, by_id.values())):
            kind = "lists of texts" if key == "images" else "texts"
            raise ValueError(f"{side}{key} must be {kind} by sample id, in {where}")


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


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
