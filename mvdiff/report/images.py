"""Images for a page: checked, and encoded into data addresses."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from mvdiff.samples.photo_sphere import xmp_option

NEUTRAL_GREY = 128
"""Grey of what no view of a panorama covers."""

MAX_LOSSLESS_PIXELS = 256 * 512
"""Larger images are stored as JPEG."""

MAX_PIXELATED_SIDE = 128
"""Images up to this side (pixels) are enlarged with visible pixels: smoothing would hide what the model made."""


def checked_image(name: str, image: object) -> np.ndarray:
    """Return an image as an array; raise ValueError by its name where it is no uint8 array [H, W, 3]."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name} must be a uint8 image of shape [H, W, 3]; got {array.dtype} of shape {list(array.shape)}."
        )
    return array


def paint_uncovered(image: np.ndarray, covered: object | None, name: str = "covered") -> np.ndarray:
    """Fill the parts of a panorama [H, W, 3] uint8 that no view covers with neutral grey.

    Raises:
        ValueError: The mask [H, W] bool (None: all is covered) has another size; the text calls it by `name`.
    """
    if covered is None:
        return image
    mask = np.asarray(covered).astype(bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} must have the panorama's height and width {list(image.shape[:2])}; got {list(mask.shape)}."
        )
    return np.where(mask[..., None], image, np.uint8(NEUTRAL_GREY))


def data_uri(image: np.ndarray, xmp: bytes | None = None) -> str:
    """Encode an image [H, W, 3] uint8 as a `data:` address: PNG when small, else JPEG without chroma subsampling."""
    lossless = image.shape[0] * image.shape[1] <= MAX_LOSSLESS_PIXELS
    form = {"format": "PNG"} if lossless else {"format": "JPEG", "quality": 90, "subsampling": 0}
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, **form, optimize=True, **xmp_option(form["format"], xmp))
    return f"data:image/{form['format'].lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def is_pixelated(image: np.ndarray) -> bool:
    """Tell whether a page should enlarge this image without smoothing."""
    return max(image.shape[:2]) <= MAX_PIXELATED_SIDE
