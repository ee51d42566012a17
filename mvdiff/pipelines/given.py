"""Input pictures of outpainting: read any image file or array and project it into the views of a rig.

Axes: V views of H x W pixels, h w a picture's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvdiff.files.images import BrokenImage, decode_image
from mvdiff.files.photo_tags import PhotoTags
from mvdiff.geometry.cameras import Rig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.given import overlay_given, warp_given
from mvdiff.pipelines.calls import check_range
from mvdiff.samples import from_uint8

Picture = str | Path | Image.Image | np.ndarray | Tensor
DEFAULT_FOV = 90.0
"""Horizontal field of view, in degrees, of a picture about which nothing is known."""


@dataclass(frozen=True)
class GivenImage:
    """A picture and its camera, which is at the centre of the views.

    Args:
        pixels: [3, h, w] float in [-1, 1].
        fov_deg: Field of view across the picture's width (that of the upright picture) in degrees, in (0, 180).
        yaw_deg: Yaw of the picture's centre in degrees, in [-360, 360], positive to the right of view 0.
        pitch_deg: Pitch of the picture's centre in degrees, in [-90, 90], positive upwards.
        shown: [1, h, w], 1 for opaque pixels, 0 for transparent ones, which are to be generated; None: all are opaque.
        name: Name in error messages and in `sample.json`.
        fov_from: Where `fov_deg` comes from, such as "EXIF focal length of 26 mm"; "": from the caller.

    Raises:
        ValueError: An angle is out of range, or the whole picture is transparent.
    """

    pixels: Tensor
    fov_deg: float = DEFAULT_FOV
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    shown: Tensor | None = None
    name: str = "image"
    fov_from: str = ""

    def __post_init__(self) -> None:
        if self.shown is not None and not bool(self.shown.any()):
            raise ValueError(
                f"image must have opaque pixels; got {self.name}, which is transparent everywhere (pixels that are "
                "more than half transparent are ignored)."
            )
        if not 0 < self.fov_deg < 180:
            raise ValueError(
                f"fov_deg must lie between 0 and 180 degrees; got {self.fov_deg:g}, of {self.name}. Across its width a "
                "phone's photo has about 69 degrees held sideways, 55 upright."
            )
        for name, limit in (("pitch_deg", 90), ("yaw_deg", 360)):
            if not -limit <= (value := getattr(self, name)) <= limit:
                raise ValueError(
                    f"{name} must lie between -{limit} and {limit} degrees; got {value:g}, of {self.name}."
                )

    def views(self, rig: Rig) -> tuple[Tensor, Tensor]:
        """Project the picture into the views of a rig: images [V, 3, H, W] in [-1, 1] and known [V, 1, H, W]."""
        h, w = self.pixels.shape[-2:]
        K, R = intrinsics_from_fov(self.fov_deg, h, w), rotation_from_yaw_pitch(self.yaw_deg, self.pitch_deg)
        return warp_given(self.pixels, K, R, *rig.cameras(), rig.height, rig.width, shown=self.shown)

    def describe(self) -> dict[str, Any]:
        """Return name, size and angles for `sample.json`; a file's name is recorded without its folder."""
        h, w = self.pixels.shape[-2:]
        angles = {"fov_deg": self.fov_deg, "yaw_deg": self.yaw_deg, "pitch_deg": self.pitch_deg}
        source = {"fov_from": self.fov_from} if self.fov_from else {}
        return {"name": Path(self.name).name, "width": w, "height": h, **angles, **source}


@dataclass(frozen=True)
class GivenViews:
    """Known parts of a sample's views.

    Args:
        images: [V, 3, H, W] in [-1, 1]; only known pixels are used.
        known: [V, 1, H, W], 1 for known pixels.
        pictures: Descriptions of the input pictures, for `sample.json`.
    """

    images: Tensor
    known: Tensor
    pictures: list[dict[str, Any]] = field(default_factory=list)


def given_views(pictures: Sequence[GivenImage], rig: Rig) -> GivenViews:
    """Project pictures into all views of a rig that see them; where pictures overlap, the first one is used.

    Raises:
        ValueError: There are no pictures, or no view sees one of them.
    """
    if not pictures:
        raise ValueError("image must be at least one picture; got none.")
    layers = [picture.views(rig) for picture in pictures]
    for picture, (_, known) in zip(pictures, layers, strict=True):
        if not bool(known.any()):
            raise ValueError(
                f"image must be visible in a view of the rig; got {picture.name} with fov {picture.fov_deg:g}, yaw "
                f"{picture.yaw_deg:g} and pitch {picture.pitch_deg:g} degrees, where no view sees a whole pixel of it."
            )
    return GivenViews(*overlay_given(layers), [picture.describe() for picture in pictures])


def given_images(
    image: Picture | Sequence[Picture],
    fov_deg: float | Sequence[float] | None = None,
    yaw_deg: float | Sequence[float] = 0.0,
    pitch_deg: float | Sequence[float] = 0.0,
    max_pixels: int | None = None,
) -> list[GivenImage]:
    """Read pictures and combine them with their angles.

    Args:
        image: One picture or a list; each a file, a PIL image of any mode, a uint8 array [h, w], [h, w, 3] or
            [h, w, 4], or a float tensor [3, h, w] in [-1, 1]. Files and PIL images are decoded as
            `mvdiff.files.images` says; pixels that are more than half transparent are left to generate.
        fov_deg: See `GivenImage`; one number for all pictures, or one for each. The same holds for the other angles.
            None: that of the focal length in the picture's EXIF, else `DEFAULT_FOV`.
        yaw_deg: See `GivenImage`.
        pitch_deg: See `GivenImage`.
        max_pixels: Largest width x height of a picture; None: `mvdiff.files.images.MAX_PIXELS`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A picture cannot be read or is a panorama, or there are not as many angles as pictures.
    """
    pictures = list(image) if isinstance(image, list | tuple) else [image]
    angles = {"fov_deg": fov_deg, "yaw_deg": yaw_deg, "pitch_deg": pitch_deg}
    if fov_deg is None:
        del angles["fov_deg"]
    listed = {}
    for name, value in angles.items():
        values = [value] * len(pictures) if np.ndim(value) == 0 else list(value)
        if len(values) != len(pictures):
            raise ValueError(
                f"{name} must be one number for all pictures or one for each ({len(pictures)}); got {len(values)}."
            )
        try:
            listed[name] = [float(one) for one in values]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a number of degrees, or one for each picture; got {value!r}.") from error
    opened = []
    for index, picture in enumerate(pictures):
        name = str(picture) if isinstance(picture, str | Path) else f"image {index}"
        pixels, shown, tags = _pixels(picture, name, max_pixels)
        own = {angle: values[index] for angle, values in listed.items()}
        own |= _field_of_view(pixels, tags, name, is_known=fov_deg is not None)
        opened.append(GivenImage(pixels, **own, shown=shown, name=name))
    return opened


def _field_of_view(pixels: Tensor, tags: PhotoTags, name: str, is_known: bool) -> dict[str, Any]:
    """Return `fov_deg` and `fov_from` of a picture unless the field of view is known; refuse panoramas."""
    height, width = pixels.shape[-2:]
    if tags.sphere is not None:
        raise ValueError(
            f"image must be a photo, not a panorama; the GPano metadata of {name} says that it is {tags.sphere}. Cut a "
            "perspective view out of it."
        )
    if is_known:
        return {}
    if width >= 2 * height:
        raise ValueError(
            f"image must be a photo, not a panorama; got {name}, {width}x{height}, as wide as a panorama. Cut a "
            "perspective view out of it, or give fov_deg (--fov) if it is a photo."
        )
    fov_deg = tags.fov_deg(width, height)
    if fov_deg is None:
        return {"fov_deg": DEFAULT_FOV}
    return {"fov_deg": round(fov_deg, 2), "fov_from": f"EXIF focal length of {tags.focal_35mm:g} mm (35 mm film)"}


def _pixels(picture: Picture, name: str, max_pixels: int | None) -> tuple[Tensor, Tensor | None, PhotoTags]:
    if isinstance(picture, Tensor):
        return _from_tensor(picture, name), None, PhotoTags()
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2:]
        if picture.dtype != np.uint8 or not picture.size or picture.ndim < 2 or channels not in ((), (1,), (3,), (4,)):
            raise ValueError(
                f"image must be a uint8 array [h, w], [h, w, 3] or [h, w, 4]; got {picture.dtype} "
                f"{list(picture.shape)}, of {name}. Put the channels last and scale to 0..255."
            )
        picture = Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)
    is_path = isinstance(picture, str | Path)
    if is_path and not Path(picture).is_file():
        problem = "is a folder" if Path(picture).is_dir() else "does not exist"
        raise FileNotFoundError(f"image must be a file; got {picture}, which {problem}.")
    if not is_path and not isinstance(picture, Image.Image):
        raise ValueError(
            f"image must be a file, a PIL image, a uint8 array or a float tensor; got {type(picture).__name__}, of "
            f"{name}."
        )
    try:
        image = decode_image(Path(picture) if is_path else picture, name, max_pixels=max_pixels)
    except BrokenImage as error:
        reason = f"{name} cannot be decoded ({error.reason})"
        raise ValueError(f"image must be a complete picture file; {reason}.") from error
    shown = None
    if image.alpha is not None:
        shown = torch.from_numpy(np.array(image.alpha) >= 128)[None].float()
        shown = None if bool(shown.all()) else shown
    return from_uint8(image.pixels), shown, image.tags


def _from_tensor(pixels: Tensor, name: str) -> Tensor:
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point() or not pixels.numel():
        raise ValueError(
            f"image must be a float tensor [3, h, w] in [-1, 1]; got {pixels.dtype} {list(pixels.shape)}, of {name}."
        )
    check_range("image", pixels, f", of {name}")
    return pixels.float().cpu()
