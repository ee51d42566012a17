"""Pictures as other programs write them, for tests of what reads them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

ORIENTATION, FOCAL_LENGTH_35MM = 0x0112, 0xA405


def shape(height: int = 24, width: int = 40) -> np.ndarray:
    """Return an image [H, W, 3] that is asymmetric in every way: dark, with a red left edge and a green top edge."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[:, : width // 4] = (220, 20, 20)
    pixels[: height // 4] = (20, 220, 20)
    return pixels


def exif(orientation: int = 1, focal_35mm: int | None = None) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    if focal_35mm is not None:
        tags.get_ifd(0x8769)[FOCAL_LENGTH_35MM] = focal_35mm
    return tags


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return how a camera stores an upright image, from the EXIF definition: where row 0 and column 0 are."""
    row_0, column_0 = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    if row_0 in ("left", "right"):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if row_0 in ("bottom", "right") else 1)
    columns = slice(None, None, -1 if column_0 in ("bottom", "right") else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Encode a PNG of 8 or 16 bits with 1 to 4 channels by hand; `chunks` go before the pixels."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, channels = pixels.shape
    bits, colour = 8 * pixels.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, *zip(*parts, strict=True)))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff16(pixels: np.ndarray) -> bytes:
    """Encode an RGB TIFF of 16 bits by hand, uint16 [H, W, 3]."""
    height, width, _ = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits_at = 8 + len(data)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", bits_at + 6) + data + struct.pack("<HHH", 16, 16, 16) + directory


def swapped_profile() -> bytes:
    """Return sRGB's colour profile with the red and the green primary exchanged, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))


def linear_profile() -> bytes:
    """Return sRGB's colour profile with linear values, under a name that begins with sRGB, as Elle Stone's have."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    curve = profile.index(b"para\0\0\0\0") + 12  # its parameters g, a, b, c, d, as 16.16 fixed point
    profile[curve : curve + 20] = struct.pack(">5i", *(value << 16 for value in (1, 1, 0, 1, 0)))
    return bytes(profile).replace("sRGB built-in".encode("utf-16-be"), "sRGB-elle-g10".encode("utf-16-be"))


def profile_of(space: bytes) -> bytes:
    """Return a colour profile whose header claims another colour space, such as b"CMYK"."""
    profile = bytearray(swapped_profile())
    profile[16:20] = space
    return bytes(profile)


def gpano(full: tuple[int, int], crop: tuple[int, int], projection: str = "equirectangular", elements=False) -> bytes:
    """Return an XMP packet: (width, height) of the sphere and of the image."""
    values = {"ProjectionType": projection, "FullPanoWidthPixels": full[0], "FullPanoHeightPixels": full[1]}
    values |= {"CroppedAreaImageWidthPixels": crop[0], "CroppedAreaImageHeightPixels": crop[1]}
    if elements:
        properties = "".join(f"<GPano:{name}>{value}</GPano:{name}>\n" for name, value in values.items())
        description = f'<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/">{properties}'
    else:
        properties = "\n".join(f'GPano:{name}="{value}"' for name, value in values.items())
        description = f'<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {properties}>'
    return f"<x:xmpmeta><rdf:RDF>{description}</rdf:Description></rdf:RDF></x:xmpmeta>".encode()


def save_with_xmp(path: Path, pixels: np.ndarray, xmp: bytes, late: bool = False) -> Path:
    """Save a picture with an XMP packet; `late`: behind the pixels of a PNG, where exiftool writes it."""
    image = Image.fromarray(pixels)
    if path.suffix == ".png":
        image.save(path)
        content = path.read_bytes()
        at = content.index(b"IEND") - 4 if late else content.index(b"IDAT") - 4
        packet = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        path.write_bytes(content[:at] + packet + content[at:])
    elif path.suffix in (".tif", ".tiff"):
        image.save(path, tiffinfo={700: xmp})
    else:
        image.save(path, xmp=xmp)
    return path


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
