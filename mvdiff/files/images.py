"""Decode images: one policy for every picture that the package reads. Errors name the file.

| in the file | result |
|---|---|
| EXIF orientation | applied; never to colour frames of recordings, whose depth is in sensor orientation |
| 16 bits per channel | scaled to 8: grey by round(v / 257), colour by its upper byte, which is at most 1 lower |
| grey, palette, 1 bit, CMYK, YCCK, YCbCr | RGB |
| colour profile | converted to sRGB; one that cannot be applied is ignored, as in viewers, with a warning |
| pixels with alpha below 250 | an error; outpainting alone leaves them to generate |
| several frames | an error; of a phone's MPO file the first picture is read |
| more pixels than `max_pixels` | an error, before anything is decoded |
| floating-point or 32-bit pixels | an error, since their range is unknown |
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from mvdiff.files.depths import SATURATED, known_values
from mvdiff.files.formats import HEAD_BYTES, why_unread
from mvdiff.files.photo_tags import DECODER_ERRORS, PhotoTags, read_photo_tags
from mvdiff.files.stored import StoredFile

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes, in lower case, of files that are read as images."""
OTHER_IMAGE_SUFFIXES = (
    *(".hdr", ".exr", ".pfm", ".heic", ".heif", ".avif"),
    *(".jxl", ".jp2", ".gif", ".psd", ".dng"),
)
"""Suffixes of images that data sets must not hold, since they are not read."""
MAX_PIXELS = 178_956_970
"""Default of `max_pixels`, the number above which Pillow, too, refuses to open an image."""
CHECK = "Run `mvdiff data check` on the data set's folder."
"""Remedy for a missing or broken file."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Formats that are decoded, whatever a file's suffix (JPEG with MPO); EPS, for one, would run a program."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that makes a stored image upright, by EXIF orientation."""
_OPAQUE = 250
"""Least alpha of a pixel that counts as opaque; editors leave single pixels a little below 255."""
_SRGB = ("sRGB", "sRGB built-in", "sRGB IEC61966-2.1", "sRGB IEC61966-2-1", "sRGB2014")
"""Descriptions of profiles that are sRGB itself; others, such as linear ones, begin alike."""
_ignored_profiles: dict[str, str] = {}
"""Reason why a colour profile was ignored, by name of the image."""
_log = logging.getLogger(__name__)
_limit_lock = threading.Lock()


class ImageError(ValueError):
    """Base class of the errors of an image; `reason` is the message without the file's name."""

    def __init__(self, message: str, reason: str = "") -> None:  # a loading process passes the message alone
        super().__init__(message)
        self.reason = reason or message


class BrokenImage(ImageError):
    """Raised for a file that cannot be decoded."""


class UnusableImage(ImageError):
    """Raised for a sound image that must not be read as it is."""


def unusable(name: str | Path | StoredFile, reason: str) -> UnusableImage:
    """Return the error for an image that must not be read; `reason` continues a sentence that the name begins."""
    return UnusableImage(f"{name} {reason}", reason)


@dataclass(frozen=True)
class DecodedImage:
    """An image under the policy above.

    Attributes:
        rgb: Upright sRGB image of 8 bits.
        alpha: Opacity of its pixels, mode "L"; None if all are opaque.
        tags: Facts about the camera.
    """

    rgb: Image.Image
    alpha: Image.Image | None
    tags: PhotoTags

    @property
    def pixels(self) -> Tensor:
        """Pixels as uint8 [3, H, W]."""
        return torch.from_numpy(np.array(self.rgb)).permute(2, 0, 1)


def read_image_uint8(path: Path | StoredFile, oriented: bool = True, max_pixels: int | None = None) -> Tensor:
    """Decode an opaque image completely, as RGB uint8 [3, H, W]; for arguments and errors see `decode_opaque`."""
    return decode_opaque(path, oriented, max_pixels).pixels


def image_size(path: Path, oriented: bool = True, max_pixels: int | None = None) -> tuple[int, int]:
    """Decode an opaque image completely and return its (width, height); see `decode_opaque`."""
    return decode_opaque(path, oriented, max_pixels).rgb.size


def stored_size(path: Path | StoredFile, max_pixels: int | None = None) -> tuple[int, int]:
    """Return the stored (width, height) from a file's header, whatever its EXIF orientation; decode nothing.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The header is broken, or the image is too large.
    """
    with _opened(path, str(path), max_pixels) as image:
        return image.size


def decode_opaque(path: Path | StoredFile, oriented: bool = True, max_pixels: int | None = None) -> DecodedImage:
    """Decode an image that must be opaque.

    Args:
        path: The file.
        oriented: Make the image upright, as its EXIF orientation says. False for colour frames of recordings, whose
            depth is in sensor orientation.
        max_pixels: Largest width x height; None: `MAX_PIXELS`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is broken (`BrokenImage`), or the policy forbids to read it (`UnusableImage`).
    """
    image = decode_image(path, str(path), oriented, max_pixels)
    if image.alpha is not None and (share := float((np.asarray(image.alpha) < _OPAQUE).mean())):
        raise unusable(
            path, f"must be opaque; {share:.2%} of its pixels are transparent. Fill them, or leave the file out."
        )
    return image


def decode_image(
    source: Path | StoredFile | Image.Image, name: str, oriented: bool = True, max_pixels: int | None = None
) -> DecodedImage:
    """Decode an image that may have transparent pixels; see `decode_opaque`.

    Args:
        source: A file, or an image that a caller has opened or made.
        name: Name of the image in errors.
        oriented: See `decode_opaque`.
        max_pixels: See `decode_opaque`.
    """
    with _opened(source, name, max_pixels) as image:
        if image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:
            raise unusable(name, f"must be a single still picture; it holds {count}. Save one of them.")
        if image.format == "TIFF":  # Pillow checks and turns TIFF, and no other format, while it loads
            tags = read_photo_tags(image)
            with _without_pillows_limit():
                image.load()
            orientation = 1 if oriented else {6: 8, 8: 6}.get(tags.orientation, tags.orientation)
        else:
            image.load()  # PNG may have its tags after its pixels
            tags = read_photo_tags(image)
            orientation = tags.orientation if oriented else 1
        rgb, alpha = _rgb(image, name), _alpha(image)
        if (turn := _TURNS.get(orientation)) is not None:
            rgb, alpha = rgb.transpose(turn), alpha and alpha.transpose(turn)
        return DecodedImage(rgb, alpha, tags)


def profile_ignored(path: Path) -> bool:
    """Return True if a file was decoded whose colour profile could not be applied."""
    return str(path) in _ignored_profiles


def read_depth(path: Path | StoredFile, units_per_metre: float = 1000) -> Tensor:
    """Return the depths of `read_counted_depth`."""
    return read_counted_depth(path, units_per_metre)[0]


def read_counted_depth(path: Path | StoredFile, units_per_metre: float = 1000) -> tuple[Tensor, int]:
    """Decode a 16-bit PNG depth map completely, as float32 [H, W] in metres, 0 where unknown.

    Args:
        path: The file.
        units_per_metre: File value that stands for one metre; 1000 for millimetres.

    Returns:
        The depths, and the number of pixels that hold 65535, which means no depth.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is broken, too large or not a 16-bit PNG with one channel.
    """
    values = read_values(path)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise ValueError(
            f"{path} must be a 16-bit PNG with one channel; got {values.dtype} of shape {values.shape}. {CHECK}"
        )
    return torch.from_numpy(known_values(values).astype(np.float32) / units_per_metre), int((values == SATURATED).sum())


def read_values(path: Path | StoredFile) -> np.ndarray:
    """Decode the values of a PNG file as they are stored, [H, W] or [H, W, C]: depths, labels, or RGBA.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is broken, too large or not a PNG.
    """
    with _opened(path, str(path), None, ("PNG",)) as image:
        return np.array(image)


@contextmanager
def _opened(
    source: Path | StoredFile | Image.Image, name: str, max_pixels: int | None, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open a file, check its size, and turn errors of decoding into `BrokenImage`."""
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        image = source if isinstance(source, Image.Image) else _open(source, formats)
        try:
            width, height = image.size
            if width * height > limit:
                raise unusable(
                    name,
                    f"must have at most {limit} pixels; it is {width}x{height}. Raise max_pixels, or scale it down.",
                )
            yield image
        finally:
            if image is not source:
                image.close()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} does not exist. {CHECK}") from error
    except UnusableImage:
        raise
    except DECODER_ERRORS as error:
        reason = _why_unread(source) if isinstance(error, UnidentifiedImageError) else str(error)
        message = f"{name} must be a whole image file; got one that cannot be decoded ({reason}). {CHECK}"
        raise BrokenImage(message, reason) from error


def _why_unread(path: Path | StoredFile) -> str:
    if isinstance(path, StoredFile):
        return why_unread(path.content[:HEAD_BYTES])
    with path.open("rb") as file:
        return why_unread(file.read(HEAD_BYTES))


def _open(path: Path | StoredFile, formats: tuple[str, ...]) -> Image.Image:
    with _without_pillows_limit():
        return Image.open(BytesIO(path.content) if isinstance(path, StoredFile) else path, formats=formats)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Suspend Pillow's own limit, which only warns at first and holds for the whole process."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an image of any mode to sRGB of 8 bits; pixels keep their colours where they are transparent."""
    if image.mode in ("F", "I"):
        kind = {"F": "floating-point", "I": "32-bit"}[image.mode]
        raise unusable(name, f"must have 8 or 16 bits per channel; it has {kind} pixels of unknown range.")
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):  # a plain conversion would clip at 255
        image = Image.fromarray((np.asarray(image) / np.float32(257)).round().astype(np.uint8))
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK"):
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns of the direct way
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile, name)
    else:
        _ignored_profiles.pop(name, None)
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile_bytes: bytes, name: str) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK from its colour profile to sRGB; ignore a profile that does not fit."""
    before = _ignored_profiles.pop(name, None)
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
        space = profile.profile.xcolor_space.strip()
        if space == "RGB" and ImageCms.getProfileDescription(profile).strip() in _SRGB:
            return image  # conversion would only add rounding
        own = image.convert("RGB") if (space, image.mode) == ("RGB", "L") else image  # grey, saved as its colours were
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != own.mode:
            raise ImageCms.PyCMSError(f"it is one of {space} colours, not of {own.mode}")
        return ImageCms.profileToProfile(own, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, *DECODER_ERRORS) as error:
        _ignored_profiles[name] = reason = str(error)
        if before != reason:
            _log.warning("%s: its colour profile cannot be applied and is ignored (%s).", name, reason)
        return image


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the opacity of an image as mode "L", or None if every pixel has alpha 255."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        if transparent is None:
            return None
        alpha = Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or transparent is not None:
        alpha = image.convert("RGBA").getchannel("A")
    else:
        return None
    return None if alpha.getextrema()[0] == 255 else alpha
