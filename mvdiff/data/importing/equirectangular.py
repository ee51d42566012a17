"""Views of equirectangular panoramas, whole or in part, by the sampler of `mvdiff.data.equirectangular`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.importing.pictures import WHOLE, SamplePictures
from mvdiff.data.importing.reading import ImportedViews, RigReader, last_channel
from mvdiff.files.images import MAX_PIXELS, decode_opaque, unusable
from mvdiff.files.photo_tags import Sphere
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.samples import from_uint8

_WHOLLY = 0.999  # a pixel is covered if the interpolated mask exceeds this; interpolating ones rounds


class EquirectangularReader(RigReader):
    """Read panoramas, one file each; arguments: see `RigReader`."""

    def read(self, pictures: SamplePictures) -> ImportedViews:
        """Cut the views; those of a partial panorama are black where it shows nothing."""
        panorama, shown = read_sphere(self.root / pictures.files[WHOLE], self.max_pixels)
        images = last_channel(from_uint8(self._cut(panorama)))
        covered = None
        if shown is not None:
            covered = self._cut(shown[None].float())[:, 0] > _WHOLLY
            images = images * covered[..., None]
        return ImportedViews(images, panorama.movedim(0, -1), covered)

    def _cut(self, image: Tensor) -> Tensor:
        return perspective_from_equirectangular(image, *self.rig.cameras(), self.rig.height, self.rig.width)


def read_sphere(path: Path, max_pixels: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Decode a panorama, or a crop of one, onto the whole sphere.

    Args:
        path: The file. Its GPano metadata say whether it is a crop, and where it lies.
        max_pixels: Largest width x height of the file and of the whole sphere; None:
            `mvdiff.files.images.MAX_PIXELS`.

    Returns:
        uint8 [3, H, 2H], black where a crop shows nothing, and [H, 2H] bool, the pixels of the crop; None: all.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is broken, is not twice as wide as high, has another projection, or is a crop whose place
            GPano does not say.
    """
    image = decode_opaque(path, max_pixels=max_pixels)
    sphere, pixels = image.tags.sphere, image.pixels
    if sphere is not None and sphere.projection != "equirectangular":
        raise unusable(path, f"must be an equirectangular panorama; its GPano metadata says that it is {sphere}.")
    if sphere is not None and not sphere.is_whole:
        return _on_sphere(path, pixels, sphere, MAX_PIXELS if max_pixels is None else max_pixels)
    height, width = pixels.shape[-2:]
    if width != 2 * height:
        raise unusable(path, f"must be twice as wide as high, or a crop with GPano metadata; got {width}x{height}.")
    return pixels, None


def _on_sphere(path: Path, pixels: Tensor, sphere: Sphere, max_pixels: int) -> tuple[Tensor, Tensor]:
    """Place a crop on the whole sphere, which is as fine as the crop."""
    if sphere.left_deg is None or sphere.top_deg is None:
        raise unusable(path, f"must say where it lies (GPano:CroppedAreaLeftPixels, ...TopPixels); it is {sphere}.")
    h, w = pixels.shape[-2:]
    H, W = (round(side * whole / part) for side, whole, part in _sides(h, w, sphere))
    if abs(W - 2 * H) > 2:  # a resized crop rounds its sides
        raise unusable(path, f"must be a crop of a sphere twice as wide as high; its GPano metadata says {W}x{H}.")
    H = max(round(W / 2), h)
    W = 2 * H
    if max_pixels < H * W:
        raise unusable(path, f"must be a crop of a sphere of at most {max_pixels} pixels; its GPano says {W}x{H}.")
    top, left = round(sphere.top_deg / 180 * H), round(sphere.left_deg / 360 * W)
    if top + h > H + 1 or left + w > W + 1:
        raise unusable(path, f"must lie on the sphere; its GPano metadata says {w}x{h} at ({left}, {top}) of {W}x{H}.")
    rows, columns = slice(min(top, H - h), min(top, H - h) + h), slice(min(left, W - w), min(left, W - w) + w)
    whole, shown = torch.zeros(3, H, W, dtype=torch.uint8), torch.zeros(H, W, dtype=torch.bool)
    whole[:, rows, columns], shown[rows, columns] = pixels, True
    return whole, shown


def _sides(height: int, width: int, sphere: Sphere) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
    return (height, 180.0, sphere.height_deg), (width, 360.0, sphere.width_deg)
