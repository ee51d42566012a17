"""Frames of a recording to compare or fuse: read one after the other, resized, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.resizing import resize_depths
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.consistency import COMPARED_SIZE, Frame, Frames
from mvdiff.geometry.depth import check_finite_cameras
from mvdiff.shapes import check_shapes


class Recording(Frames, Protocol):
    """Frames whose poses can be read without their images."""

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return R [V, 3, 3], world-from-camera, and t [V, 3], metres."""


class SelectedFrames:
    """Every n-th frame of a recording, resized if `size` is set.

    Args:
        frames: The recording, see `mvdiff.mesh.frames.open_frames`.
        every: 1 takes all frames, 2 the first, the third, and so on.
        size: (height, width) in pixels, or None to leave frames as they are.

    Raises:
        ValueError: `every` or a side is less than 1.
    """

    def __init__(self, frames: Recording, every: int = 1, size: tuple[int, int] | None = None):
        check_counts(every=every)
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be a height and a width of at least 1 pixel; got {size}.")
        self.frames, self.every, self.size = frames, every, size

    def __len__(self) -> int:
        return -(-len(self.frames) // self.every)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(index)
        frame = checked(self.frames[index * self.every])
        return frame if self.size is None else resized(frame, *self.size)

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return R [V, 3, 3], world-from-camera, and t [V, 3], metres."""
        return tuple(values[:: self.every] for values in self.frames.poses())


def checked(frame: Frame) -> Frame:
    """Return the frame itself after checking its shapes, its image's type and that its camera is finite.

    Raises:
        ValueError: One of them is wrong; the text names the frame.
    """
    try:
        patterns = {"image": "H W 3", "depth": "H W", "K": "3 3", "R": "3 3", "t": "3"}
        check_shapes(**{name: (getattr(frame, name), pattern) for name, pattern in patterns.items()})
        check_finite_cameras(K=frame.K, R=frame.R, t=frame.t)
    except ValueError as error:
        raise ValueError(f"{error} (In {frame.name}.)") from error
    if frame.image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8; got {frame.image.dtype}, in {frame.name}. Use mvdiff.samples.to_uint8.")
    return frame


def resized(frame: Frame, height: int, width: int) -> Frame:
    """Return a frame at another size: colours averaged, depths of the nearest pixel, intrinsics to match.

    Depths are not averaged: there is no surface between an edge and what lies behind it.

    Example:
        >>> depth, eye = torch.tensor([[1.0, 1.0, 3.0, 3.0]]).expand(2, 4), torch.eye(3)
        >>> half = resized(Frame(torch.zeros(2, 4, 3, dtype=torch.uint8), depth, eye, eye, torch.zeros(3)), 1, 2)
        >>> half.depth.tolist(), half.image.shape, half.K[0].tolist()
        ([[1.0, 3.0]], torch.Size([1, 2, 3]), [0.5, 0.0, -0.25])
    """
    old_height, old_width = frame.depth.shape
    if (old_height, old_width) == (height, width):
        return frame
    return frame._replace(
        image=resized_image(frame.image, height, width),
        depth=resize_depths(frame.depth, height, width),
        K=resize_intrinsics(frame.K, width / old_width, height / old_height),
    )


def resized_image(image: Tensor, height: int, width: int) -> Tensor:
    """Return an image [H, W, 3] uint8 at a size, by antialiased bilinear interpolation."""
    if image.shape[:2] == (height, width):
        return image
    pixels = image.permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return pixels.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0)


class ReducedFrames:
    """Frames of a recording whose longer side is at most `COMPARED_SIZE` pixels, to compare them."""

    def __init__(self, frames: Recording):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return R [V, 3, 3], world-from-camera, and t [V, 3], metres."""
        return self.frames.poses()

    def __getitem__(self, index: int) -> Frame:
        frame = checked(self.frames[index])
        smaller = max(1, max(frame.depth.shape) / COMPARED_SIZE)
        return resized(frame, *(max(1, round(side / smaller)) for side in frame.depth.shape))


class SceneFrames:
    """Usable frames of a recording at the size of its depth images.

    Args:
        scene: The recording.
        numbers: Numbers of usable frames; None: all.

    Raises:
        ValueError: The recording has no usable frame.
    """

    def __init__(self, scene: RecordingSource, numbers: Sequence[int] | None = None):
        self.scene, self.numbers = scene, scene.valid_frames if numbers is None else numbers
        if not self.numbers:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(scene.unusable.items()))
            raise ValueError(
                f"{scene.path} must have usable frames; got none ({reasons or 'none is listed'}). Run "
                f"`mvdiff data check {scene.path}`."
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return R [V, 3, 3], world-from-camera, and t [V, 3], metres."""
        R, t = zip(*(self.scene.pose(number) for number in self.numbers), strict=True)
        return torch.stack(R), torch.stack(t)

    def __getitem__(self, index: int) -> Frame:
        number, scene = self.numbers[index], self.scene
        height, width = scene.depth_size
        R, t = scene.pose(number)
        image = resized_image(scene.load_image(number).permute(1, 2, 0), height, width)
        depth = scene.stored_depths(number)
        return Frame(image, depth, scene.intrinsics(height, width, number), R, t, f"{scene.path}, frame {number}")
