"""Images for a page: checked, encoded into data addresses, laid out in a grid."""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

NEUTRAL_GREY = 128
"""What stands where a panorama was not covered by any view."""

MAX_LOSSLESS_PIXELS = 256 * 512
"""Larger images are stored as JPEG."""

MAX_PIXELATED_SIDE = 128
"""Images up to this side (pixels) are enlarged with visible pixels: smoothing would hide what the model really made."""


def checked_image(name: str, image: object) -> np.ndarray:
    """Return `image` as an array after checking its form.

    Args:
        name: What the user calls this image, for the error text.
        image: [H, W, 3] uint8 array, or what numpy turns into one.

    Raises:
        ValueError: If it is no uint8 array of shape [H, W, 3].
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name} must be a uint8 image of shape [H, W, 3]; got {array.dtype} of shape {list(array.shape)}. "
            "Convert with mvdiff.samples.to_uint8 and put the channels last."
        )
    return array


def paint_uncovered(image: np.ndarray, covered: object | None, name: str = "covered") -> np.ndarray:
    """Fill what no view covered with neutral grey.

    Args:
        image: [H, W, 3] uint8 panorama.
        covered: [H, W] bool, True where content is; None means everywhere.
        name: What the user calls the mask, for the error text.

    Raises:
        ValueError: If the mask has another size than the image.
    """
    if covered is None:
        return image
    mask = np.asarray(covered).astype(bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} must have the panorama's height and width {list(image.shape[:2])}; got {list(mask.shape)}."
        )
    return np.where(mask[..., None], image, np.uint8(NEUTRAL_GREY))


def data_uri(image: np.ndarray) -> str:
    """Encode an image [H, W, 3] uint8 as a `data:` address: PNG when small, else JPEG without chroma subsampling."""
    lossless = image.shape[0] * image.shape[1] <= MAX_LOSSLESS_PIXELS
    buffer = BytesIO()
    if lossless:
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    else:
        Image.fromarray(image).save(buffer, format="JPEG", quality=90, subsampling=0, optimize=True)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def is_pixelated(image: np.ndarray) -> bool:
    """Tell whether a page should enlarge this image without smoothing."""
    return max(image.shape[:2]) <= MAX_PIXELATED_SIDE


def image_grid(rows: Sequence[Sequence[object]], pad: int = 2) -> np.ndarray:
    """Lay out rows of equally large images as one image, on white.

    Args:
        rows: Images [H, W, 3] uint8; a shorter row is left white at its end.
        pad: Pixels between and around the images.

    Returns:
        [rows * (H + pad) + pad, columns * (W + pad) + pad, 3] uint8.

    Raises:
        ValueError: If there is no image, or the images differ in size.

    >>> image_grid([[np.zeros((4, 6, 3), np.uint8)] * 3], pad=1).shape
    (6, 22, 3)
    """
    images = [[checked_image(f"rows[{r}][{c}]", image) for c, image in enumerate(row)] for r, row in enumerate(rows)]
    sizes = {image.shape for row in images for image in row}
    if len(sizes) != 1:
        raise ValueError(f"rows must hold images of one size; got {sorted(sizes) or 'no image'}.")
    height, width, _ = sizes.pop()
    num_columns = max(len(row) for row in images)
    grid = np.full((len(images) * (height + pad) + pad, num_columns * (width + pad) + pad, 3), 255, np.uint8)
    for r, row in enumerate(images):
        for c, image in enumerate(row):
            top, left = pad + r * (height + pad), pad + c * (width + pad)
            grid[top : top + height, left : left + width] = image
    return grid
