"""Facts about the camera in the metadata of photos: EXIF and, for panoramas, GPano."""

from __future__ import annotations

import math
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

DECODER_ERRORS = (
    *(
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
    ),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""Errors that Pillow raises for damaged bytes."""

_ORIENTATION, _EXIF_IFD, _FOCAL_LENGTH_35MM = 0x0112, 0x8769, 0xA405
_GPANO = re.compile(r"(?<!/)GPano:(\w{1,64})(?:\s{0,64}=\s{0,64}[\"']([^\"'<]{0,200})[\"']|>([^<]{0,200})</)")
"""A GPano property, as an attribute or an element; every part is bounded, so that the time is linear in the packet."""


@dataclass(frozen=True)
class Sphere:
    """The part of a sphere that a panorama shows, as GPano states it.

    Source: Google's Photo Sphere XMP metadata, namespace `GPano`.

    Attributes:
        projection: "equirectangular", or another projection in lower case.
        width_deg: Degrees of longitude that the image spans.
        height_deg: Degrees of latitude that the image spans.
        left_deg: Degrees of longitude from the left border of the whole sphere to that of the image; None: not stated.
        top_deg: Degrees of latitude from the zenith to the top of the image; None: not stated.
    """

    projection: str
    width_deg: float = 360.0
    height_deg: float = 180.0
    left_deg: float | None = None
    top_deg: float | None = None

    @property
    def is_whole(self) -> bool:
        """True for an equirectangular image of the whole sphere, to half a percent."""
        whole = self.width_deg > 360 * 0.995 and self.height_deg > 180 * 0.995
        return self.projection == "equirectangular" and whole

    def __str__(self) -> str:
        if self.projection != "equirectangular":
            return f"a {self.projection} panorama"
        if self.is_whole:
            return "an equirectangular panorama of the whole sphere"
        return f"a crop of {self.width_deg:.0f}x{self.height_deg:.0f} degrees of the sphere"


@dataclass(frozen=True)
class PhotoTags:
    """Metadata of a photo.

    Attributes:
        orientation: EXIF orientation, 1 to 8; 1: stored upright.
        focal_35mm: Focal length in millimetres of the same view on 35 mm film; None: not stated.
        sphere: Part of the sphere that a panorama shows; None: no panorama, or not stated.
    """

    orientation: int = 1
    focal_35mm: float | None = None
    sphere: Sphere | None = None

    def fov_deg(self, width: int, height: int) -> float | None:
        """Return the field of view across the width of the upright image in degrees; None if it is not stated.

        The long side stands for the 36 mm of a film frame, as phones compute the tag. (By the diagonal of 43.27 mm, the
        other usage, a 4:3 photo would be 2 degrees narrower.)

        Example:
            >>> [round(PhotoTags(focal_35mm=26).fov_deg(*size), 1) for size in ((64, 48), (48, 64))]
            [69.4, 54.9]
        """
        if self.focal_35mm is None:
            return None
        return math.degrees(2 * math.atan(18 * width / max(width, height) / self.focal_35mm))


def read_photo_tags(image: Image.Image) -> PhotoTags:
    """Read the metadata of a loaded image; what is damaged or absent takes its default, as in every viewer."""
    orientation, focal = 1, None
    with suppress(*DECODER_ERRORS):
        exif = image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
        focal = float(exif.get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_35MM, 0))
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    if focal is None or not 1 <= focal <= 10_000:  # 0 means unknown
        focal = None
    return PhotoTags(orientation, focal, _sphere(image))


def _sphere(image: Image.Image) -> Sphere | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = xmp.decode("utf-8", errors="replace") if isinstance(xmp, bytes) else str(xmp)
    values = {name: (attribute or element).strip() for name, attribute, element in _GPANO.findall(text)}
    if "ProjectionType" not in values and "FullPanoWidthPixels" not in values:
        return None
    projection = values.get("ProjectionType", "equirectangular").lower()
    spans = 360 * _share(values, "Width"), 180 * _share(values, "Height")
    return Sphere(projection, *spans, _offset(values, "Left", "Width", 360), _offset(values, "Top", "Height", 180))


def _share(values: dict[str, str], side: str) -> float:
    """Return the share of the sphere's width or height that the image shows; a share survives resizing."""
    try:
        full, cropped = (float(values[name]) for name in (f"FullPano{side}Pixels", f"CroppedAreaImage{side}Pixels"))
        share = cropped / full
    except (KeyError, ValueError, ZeroDivisionError):
        return 1.0
    return share if 0 < share < 1 else 1.0


def _offset(values: dict[str, str], edge: str, side: str, degrees: float) -> float | None:
    """Return the degrees from the sphere's left or top border to the image's; None where they are not stated."""
    try:
        pixels, full = float(values[f"CroppedArea{edge}Pixels"]), float(values[f"FullPano{side}Pixels"])
        share = pixels / full
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return degrees * share if 0 <= share < 1 else None
