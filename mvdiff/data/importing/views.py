"""Perspective views as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mvdiff.data.importing.pictures import SamplePictures
from mvdiff.data.importing.reading import ImportedViews
from mvdiff.files.images import image_size, read_image_uint8
from mvdiff.geometry.cameras import Rig, RingRig

_PAPER_VIEWS = RingRig().num_views


class ViewsReader:
    """Read views, one file each, numbered from 0 or from 1.

    Args:
        root: Folder of the pictures.
        rig: Their cameras, at any size of the same shape; None: the paper's ring of 8.
        cameras: Their cameras one by one, as `SampleRecord.cameras` has them, instead of a rig.
        max_pixels: Largest width x height of a picture; None: `mvdiff.files.images.MAX_PIXELS`.
    """

    def __init__(
        self,
        root: Path,
        rig: Rig | None = None,
        cameras: dict[str, Any] | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.root, self.rig, self.single_cameras, self.max_pixels = root, rig, cameras, max_pixels

    @property
    def num_views(self) -> int:
        """Number of views of a sample."""
        if self.single_cameras is not None:
            return len(self.single_cameras["views"])
        return _PAPER_VIEWS if self.rig is None else self.rig.num_views

    def cameras(self, pictures: SamplePictures) -> dict[str, Any]:
        """Return the rig at the size of the pictures, or the cameras.

        Raises:
            FileNotFoundError: The first picture does not exist.
            ValueError: The pictures are not numbered as the cameras are, or the first is broken or of another shape.
        """
        self._check_numbers(pictures)
        if self.single_cameras is not None:
            return {"cameras": self.single_cameras}
        width, height = image_size(self.root / pictures.name, max_pixels=self.max_pixels)
        rig = self.rig or RingRig(height=height, width=width)
        if rig.width * height != rig.height * width:
            raise ValueError(
                f"{pictures.name} must have the shape of the views, {rig.width}x{rig.height}; got {width}x{height}."
            )
        return {"rig": rig.resized(height, width).to_dict()}

    def read(self, pictures: SamplePictures) -> ImportedViews:
        """Decode the views."""
        self._check_numbers(pictures)
        views = []
        for path in pictures.files.values():
            views.append(read_image_uint8(self.root / path, max_pixels=self.max_pixels))
            if views[-1].shape != views[0].shape:
                sizes = " and ".join(f"{view.shape[2]}x{view.shape[1]}" for view in (views[0], views[-1]))
                raise ValueError(f"views of a sample must have one size; got {sizes}, in {path.as_posix()}.")
        return ImportedViews(torch.stack(views).movedim(1, -1))

    def _check_numbers(self, pictures: SamplePictures) -> None:
        """Raise ValueError unless the views are numbered 0 to V - 1 or 1 to V: with a gap, cameras would be wrong."""
        names, count = list(pictures.files), self.num_views
        if names not in ([str(first + view) for view in range(count)] for first in (0, 1)):
            remedy = " Give other cameras with --rig." * (len(names) != count)
            raise ValueError(
                f"sample {pictures.sample_id!r} must have views 0 to {count - 1} or 1 to {count}, one per camera; got "
                f"{len(names)} ({', '.join(names[:20])}).{remedy}"
            )
