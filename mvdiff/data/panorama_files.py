"""Files of equirectangular panoramas: read whole ones, and name what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from mvdiff.files.images import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    DecodedImage,
    decode_opaque,
    unusable,
)
from mvdiff.files.paths import same_name, visible
from mvdiff.files.stored import StoredFile

_FRAME = re.compile(r"(?P<frame>.*)[._-](?P<kind>color|colour|rgb|depth|pose)", re.IGNORECASE)
"""Name, without suffix, of a file of an RGB-D frame, such as `frame-000150.color`."""


def read_panorama(path: Path | StoredFile, max_pixels: int | None = None) -> Tensor:
    """Decode a panorama of the whole sphere as uint8 [3, H, 2H].

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is broken, is not twice as wide as high, or shows a part of the sphere.
    """
    image = decode_panorama(path, max_pixels)
    width, height = image.rgb.size
    if width != 2 * height:
        raise unusable(path, f"must be twice as wide as high; got {width}x{height}.")
    return image.pixels


def decode_panorama(path: Path | StoredFile, max_pixels: int | None = None) -> DecodedImage:
    """Decode a panorama of any size; raise like `read_panorama`, also where GPano says that it is a crop."""
    image = decode_opaque(path, max_pixels=max_pixels)
    sphere = image.tags.sphere
    if sphere is not None and not sphere.is_whole:
        raise unusable(
            path,
            f"must show the whole sphere; its GPano metadata says that it is {sphere}. Complete it, or leave the file "
            "out.",
        )
    return image


def unread_images(folder: Path, names: Iterable[str]) -> list[Path]:
    """List the pictures of a folder that have a format which is not read and a name that is not among `names`."""
    known = set(names)
    return [path for path in visible(folder, *OTHER_IMAGE_SUFFIXES) if same_name(path.stem) not in known]


def not_read(path: Path) -> str:
    """Say that a picture's format is not read, and which ones are."""
    return f"{path.suffix} is not read; convert it to one of {', '.join(IMAGE_SUFFIXES)}"


def check_not_frames(folder: Path, paths: Iterable[Path]) -> None:
    """Raise ValueError where images are frames of an RGB-D recording: `x.color.png`, or `x_rgb.png` beside a depth."""
    images = [(path, match) for path in paths if (match := _FRAME.fullmatch(path.stem))]
    kinds: dict[str, set[str]] = {}
    for path, match in images:
        kinds.setdefault(match["frame"], set()).add("depth" if match["kind"].lower() == "depth" else "colour")
        dotted = path.stem[len(match["frame"])] == "."
        if dotted or len(kinds[match["frame"]]) == 2:
            raise ValueError(
                f"{folder} must hold panoramas; got {path.name}, a frame of an RGB-D recording. Arrange recordings in "
                "a layout of docs/data.md (color/<i>.png, depth/<i>.png, pose/<i>.txt), or name a reader with --data."
            )
