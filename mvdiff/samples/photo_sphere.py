"""Panoramas as photo spheres: image files whose XMP tells viewers which part of the sphere they show.

Source: Google's Photo Sphere XMP metadata, namespace `GPano`. The middle of the image is yaw 0 (convention 6 of
`mvdiff.geometry`). A generated room has no north, so there is no `PoseHeadingDegrees` (with it Pannellum draws a
compass); viewers then take the middle of the image for heading 0, and a heading is a yaw.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from mvdiff.files.writing import write_whole

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffixes of pictures, and Pillow's names of their formats."""

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"
{properties}/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def save_panorama(
    path: str | Path,
    panorama: Image.Image | np.ndarray | Tensor,
    top: int | None = None,
    view: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Save a panorama with the XMP that 360-degree viewers read; return its path.

    Args:
        path: File; its suffix .png, .jpg, .jpeg or .webp chooses the format, the lossy ones at quality 95.
        panorama: An image, or uint8 [H, W, 3], of full turns: W = 2 H, or lower where rows are missing.
        top: Number of rows that are missing above; None: as many as below.
        view: Yaw and pitch in degrees where viewers open the panorama.

    Raises:
        ValueError: The suffix is unknown, or the shape or `top` does not fit a sphere.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> path = save_panorama(f"{tempfile.mkdtemp()}/room.jpg", np.zeros((6, 16, 3), np.uint8), top=1)
        >>> b'GPano:CroppedAreaTopPixels="1"' in path.read_bytes()
        True
    """
    path = Path(path)
    if isinstance(panorama, Image.Image):
        panorama = np.asarray(panorama.convert("RGB"))
    pixels = panorama.detach().cpu().numpy() if isinstance(panorama, Tensor) else np.asarray(panorama)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"panorama must be uint8 of shape [H, W, 3]; got {pixels.dtype} {list(pixels.shape)}.")
    write_whole(path, picture_bytes(pixels, path.suffix, photo_sphere_xmp(*pixels.shape[:2], top, view)))
    return path


def carry_xmp(panorama: Image.Image, view: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """Make an image's own `save` write the XMP to PNG, JPEG and WebP files, and return the image.

    Pillow keeps it in `encoderinfo`, whose `pnginfo` goes before an argument of `save`. Copies, crops and resized
    images do not have it.
    """
    xmp = photo_sphere_xmp(panorama.height, panorama.width, view=view)
    panorama.encoderinfo = xmp_option("PNG", xmp) | xmp_option("JPEG", xmp)
    return panorama


def photo_sphere_xmp(height: int, width: int, top: int | None = None, view: tuple[float, float] = (0.0, 0.0)) -> bytes:
    """Return the XMP packet of a panorama; see `save_panorama` for arguments.

    Raises:
        ValueError: The width is odd, or the rows do not fit a sphere that is `width` columns around.
    """
    if width % 2:
        raise ValueError(f"panorama must be an even number of columns wide; got {width} x {height} (width x height).")
    full = width // 2
    top = (full - height) // 2 if top is None else top
    if top < 0 or top + height > full:
        raise ValueError(
            f"panorama must be at most half as high as wide; got {width} x {height} pixels (width x height), "
            f"from row {top}."
        )
    yaw, pitch = view
    values = {
        "UsePanoramaViewer": True,
        "ProjectionType": "equirectangular",
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": full,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": top,
        "InitialViewHeadingDegrees": float(yaw) % 360,
        "InitialViewPitchDegrees": float(pitch),
    }
    return _PACKET.format(properties="\n".join(f'GPano:{name}="{value}"' for name, value in values.items())).encode()


def picture_bytes(pixels: np.ndarray, suffix: str, xmp: bytes | None = None) -> bytes:
    """Encode an image [H, W, 3] uint8, with or without an XMP packet; see `save_panorama` for suffixes.

    Raises:
        ValueError: The suffix is unknown.
    """
    file_format = FORMATS.get(suffix.lower())
    if file_format is None:
        raise ValueError(f"suffix of a picture must be one of {', '.join(FORMATS)}; got {suffix!r}.")
    options = {"PNG": {"compress_level": 3}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, format=file_format, **options[file_format], **xmp_option(file_format, xmp))
    return buffer.getvalue()


def xmp_option(file_format: str, xmp: bytes | None) -> dict[str, Any]:
    """Return the argument of Pillow's `save` that writes an XMP packet to a PNG, JPEG or WEBP file."""
    if xmp is None:
        return {}
    if file_format != "PNG":
        return {"xmp": xmp}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return {"pnginfo": info}
