"""Input pictures of outpainting: read any image file or array and project it into the views of a rig.

Axes: V views of H x W pixels, h w a picture's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mvdiff.geometry.cameras import Rig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.given import overlay_given, warp_given
from mvdiff.pipelines.calls import check_range
from mvdiff.samples import from_uint8

Picture = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class GivenImage:
    """A picture and its camera, which is at the centre of the views.

    Args:
        pixels: [3, h, w] float in [-1, 1].
        fov_deg: Horizontal field of view in degrees, in (0, 180).
        yaw_deg: Yaw of the picture's centre in degrees, in [-360, 360], positive to the right of view 0.
        pitch_deg: Pitch of the picture's centre in degrees, in [-90, 90], positive upwards.
        shown: [1, h, w], 1 for opaque pixels, 0 for transparent ones, which are to be generated; None: all are opaque.
        name: Name in error messages and in `sample.json`.

    Raises:
        ValueError: An angle is out of range, or the whole picture is transparent.
    """

    pixels: Tensor
    fov_deg: float = 90.0
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    shown: Tensor | None = None
    name: str = "image"

    def __post_init__(self) -> None:
        if self.shown is not None and not bool(self.shown.any()):
            raise ValueError(
                f"image must have opaque pixels; got {self.name}, which is transparent everywhere (pixels that are "
                "more than half transparent are ignored)."
            )
        if not 0 < self.fov_deg < 180:
            raise ValueError(
                f"fov_deg must lie between 0 and 180 degrees; got {self.fov_deg:g}, of {self.name}. A phone's main "
                "camera has about 65."
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
        return {"name": Path(self.name).name, "width": w, "height": h, **angles}


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
    fov_deg: float | Sequence[float] = 90.0,
    yaw_deg: float | Sequence[float] = 0.0,
    pitch_deg: float | Sequence[float] = 0.0,
) -> list[GivenImage]:
    """Read pictures and combine them with their angles.

    Args:
        image: One picture or a list; each a file, a PIL image of any mode, a uint8 array [h, w], [h, w, 3] or
            [h, w, 4], or a float tensor [3, h, w] in [-1, 1]. EXIF rotation is applied, grey and CMYK become RGB, and
            pixels that are more than half transparent are left to generate.
        fov_deg: See `GivenImage`; one number for all pictures, or one for each. The same holds for the other angles.
        yaw_deg: See `GivenImage`.
        pitch_deg: See `GivenImage`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A picture cannot be read, or the number of angles differs from the number of pictures.
    """
    pictures = list(image) if isinstance(image, list | tuple) else [image]
    angles = {"fov_deg": fov_deg, "yaw_deg": yaw_deg, "pitch_deg": pitch_deg}
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
        pixels, shown = _pixels(picture, name)
        own = {angle: values[index] for angle, values in listed.items()}
        opened.append(GivenImage(pixels, **own, shown=shown, name=name))
    return opened


def _pixels(picture: Picture, name: str) -> tuple[Tensor, Tensor | None]:
    if isinstance(picture, Tensor):
        return _from_tensor(picture, name), None
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
        with Image.open(picture) if is_path else nullcontext(picture) as opened:
            return _from_pil(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = "another kind of file" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"image must be a complete picture file; got {problem}, in {name}.") from error


def _from_tensor(pixels: Tensor, name: str) -> Tensor:
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point() or not pixels.numel():
        raise ValueError(
            f"image must be a float tensor [3, h, w] in [-1, 1]; got {pixels.dtype} {list(pixels.shape)}, of {name}."
        )
    check_range("image", pixels, f", of {name}")
    return pixels.float().cpu()


def _from_pil(image: Image.Image) -> tuple[Tensor, Tensor | None]:
    """Convert a PIL image of any mode to pixels [3, h, w] in [-1, 1], and a mask of opaque pixels or None."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I"):
        kind = {"F": "floating-point", "I": "32-bit"}[image.mode]
        raise ValueError(f"{kind} pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, which a plain conversion would clip
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    shown = None
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        shown = torch.from_numpy(np.array(image)[..., 3] >= 128)[None].float()
        shown = None if bool(shown.all()) else shown
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return from_uint8(pixels), shown
