"""Readers of other methods' pictures, and the views that they return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mvdiff.data.importing.pictures import SamplePictures
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import to_uint8


@dataclass(frozen=True)
class ImportedViews:
    """The views of one sample; H' x W' is the size of its panorama.

    Attributes:
        images: uint8 [V, H, W, 3].
        panorama: uint8 [H', W', 3] of the whole sphere, or None.
        covered: [V, H, W] bool, the pixels that a partial panorama shows; None: all.
        doubt: Sentence about pictures that fit together badly; "" without.
    """

    images: Tensor
    panorama: Tensor | None = None
    covered: Tensor | None = None
    doubt: str = ""

    @property
    def given(self) -> Tensor | None:
        """Views as uint8 [V, H, W, 4] whose alpha is 0 where they are not covered, or None."""
        if self.covered is None:
            return None
        return torch.cat([self.images, 255 * self.covered[..., None].to(self.images.dtype)], dim=-1)


class RigReader:
    """Base of readers that cut the views of a rig.

    Args:
        root: Folder of the pictures.
        rig: Views to cut, at yaw 0.
        max_pixels: Largest width x height of a picture; None: `mvdiff.files.images.MAX_PIXELS`.
    """

    def __init__(self, root: Path, rig: Rig, max_pixels: int | None = None) -> None:
        self.root, self.rig, self.max_pixels = root, rig, max_pixels

    def cameras(self, pictures: SamplePictures) -> dict[str, Any]:
        """Return the rig."""
        return {"rig": self.rig.to_dict()}


class PictureReader(Protocol):
    """Turn the pictures of a sample into views."""

    root: Path

    def cameras(self, pictures: SamplePictures) -> dict[str, Any]:
        """Return `rig` or `cameras` of a `SampleRecord`."""

    def read(self, pictures: SamplePictures) -> ImportedViews:
        """Decode the pictures and cut or copy the views.

        Raises:
            FileNotFoundError: A picture does not exist.
            ValueError: A picture is broken or has another shape or size than the kind has.
        """


def last_channel(images: Tensor) -> Tensor:
    """Round images [..., 3, H, W] in [-1, 1] to uint8 [..., H, W, 3]."""
    return to_uint8(images).movedim(-3, -1)


def rig_of(record: dict[str, Any]) -> Rig | None:
    """Return the rig of the cameras of a sample; None where they are single cameras."""
    return Rig.from_dict(record["rig"]) if "rig" in record else None
