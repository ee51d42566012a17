"""Sequences of frames along a camera path: numbers of frames and of key frames; contents are read when asked for.

Key frames are generated first; the frames between two of them are interpolated, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.data.recordings import RecordingSource

MAX_BETWEEN = 10
"""Most frames between the two key frames of an interpolation sample (the paper's)."""


@dataclass(frozen=True)
class Frame:
    """One frame of a scene; its camera is float64."""

    number: int  # in the recording
    image: Tensor | None  # [3, H, W] colour in [-1, 1], or None where a scene has no pictures
    depths: Tensor  # [H, W] z-depth in metres, 0 = none
    K: Tensor  # [3, 3] intrinsics in pixels of the image
    R: Tensor  # [3, 3] world-from-camera
    t: Tensor  # [3] camera centre in the world, metres


class FrameSequence:
    """Frames of one scene in the order of time, read when asked for.

    Args:
        scene: The scene.
        frame_ids: Numbers of the frames, ascending.
        key_ids: Numbers of the key frames among them, ascending.
        height: Height of the frames in pixels, whatever the files have.
        width: Width of the frames in pixels.

    Raises:
        ValueError: There is no frame, the numbers are not ascending, a key frame is not among the frames, or a size is
            less than 1.
    """

    def __init__(
        self, scene: RecordingSource, frame_ids: Sequence[int], key_ids: Sequence[int], height: int, width: int
    ) -> None:
        for name, ids in (("frame_ids", frame_ids), ("key_ids", key_ids)):
            if sorted(set(ids)) != list(ids):
                raise ValueError(f"{name} must be ascending, each once; got {list(ids)[:20]}, in {scene.path}.")
        if not frame_ids or not set(key_ids) <= set(frame_ids):
            raise ValueError(
                f"frame_ids must be at least one frame and hold all key_ids; got {list(frame_ids)[:20]} and "
                f"{list(key_ids)[:20]}, in {scene.path}."
            )
        check_counts(height=height, width=width)
        self.scene = scene
        self.frame_ids = list(frame_ids)
        self.key_ids = list(key_ids)
        self.height = height
        self.width = width

    @property
    def name(self) -> str:
        """Name of the scene."""
        return self.scene.name

    @property
    def key_positions(self) -> list[int]:
        """Positions of the key frames in the sequence."""
        return [self.frame_ids.index(frame) for frame in self.key_ids]

    def __len__(self) -> int:
        return len(self.frame_ids)

    def frame(self, position: int) -> Frame:
        """Read the frame at a position (0 is the first).

        Raises:
            FileNotFoundError: One of its files is missing.
            ValueError: One of its files is broken.
        """
        frame, scene, size = self.frame_ids[position], self.scene, (self.height, self.width)
        image, depths = scene.image(frame, *size), scene.depths(frame, *size)
        return Frame(frame, image, depths, scene.intrinsics(*size, frame), *scene.pose(frame))

    def prompt(self, position: int) -> str:
        """Return the caption of the frame at a position; see `RecordingSource.prompt`."""
        return self.scene.prompt(self.frame_ids[position])

    def sample(self, positions: Sequence[int] | None = None, known: Sequence[int] = ()) -> dict[str, Any]:
        """Read frames as the views of a sample (without id, index and epoch) for `MultiViewBatch.collate`.

        Args:
            positions: Positions of the frames; all by default.
            known: Positions of the known frames.

        Returns:
            `images` [V, 3, H, W] in [-1, 1], `depths` [V, H, W] metres, `K`, `R` [V, 3, 3], `t` [V, 3], `known`
            [V, 1, H, W], all float32, and `prompts`.
        """
        positions = range(len(self)) if positions is None else positions
        frames = [self.frame(position) for position in positions]
        fields = (("images", "image"), ("depths", "depths"), ("K", "K"), ("R", "R"), ("t", "t"))
        stacked = {name: torch.stack([getattr(frame, field) for frame in frames]).float() for name, field in fields}
        known_views = torch.tensor([position in known for position in positions], dtype=torch.float32)
        return {
            **stacked,
            "known": known_views[:, None, None, None].expand(-1, 1, self.height, self.width).clone(),
            "prompts": [self.prompt(position) for position in positions],
        }


def key_sequence(scene: RecordingSource, height: int = 192, width: int = 256) -> FrameSequence:
    """Return the key frames of a scene."""
    return FrameSequence(scene, scene.key_frames, scene.key_frames, height, width)


def interval_sequence(scene: RecordingSource, height: int = 192, width: int = 256, interval: int = 20) -> FrameSequence:
    """Return every `interval`-th usable frame of a scene, all of them key frames.

    Raises:
        ValueError: `interval` is less than 1, or the scene has no usable frame.
    """
    check_counts(interval=interval)
    frames = scene.valid_frames[::interval]
    return FrameSequence(scene, frames, frames, height, width)


def full_sequence(
    scene: RecordingSource,
    height: int = 192,
    width: int = 256,
    max_between: int | None = None,
    interval: int | None = None,
) -> FrameSequence:
    """Return a scene's key frames and the usable frames between them, as the two stages generate them.

    Between two key frames are at most `max_between` frames, evenly spaced, or all of them. With an `interval` they are
    only those whose numbers are a multiple of it after the first key frame (2023 release: 20).

    Raises:
        FileNotFoundError: The scene has no list of key frames.
        ValueError: `max_between` or `interval` is less than 1.
    """
    check_counts(max_between=max_between, interval=interval)
    keys = scene.key_frames
    frames = list(keys)
    for first, last in pairwise(keys):
        usable = [frame for frame in scene.valid_frames if interval is None or (frame - first) % interval == 0]
        frames += frames_between(usable, first, last, max_between)
    return FrameSequence(scene, sorted(frames), keys, height, width)


def frames_between(frames: Sequence[int], first: int, last: int, most: int | None = MAX_BETWEEN) -> list[int]:
    """Choose frames strictly between two: all, or `most` of them, evenly spaced in their list (own derivation).

    Example:
        >>> frames_between(range(100), 10, 14)
        [11, 12, 13]
        >>> frames_between(range(100), 10, 20, most=2)
        [13, 17]
    """
    between = [frame for frame in frames if first < frame < last]
    if most is None or len(between) <= most:
        return between
    step = (len(between) + 1) / (most + 1)  # the list is at 1..n, the two frames are at 0 and n + 1
    return [between[int(step * number + 0.5) - 1] for number in range(1, most + 1)]


def drawn_between(frames: Sequence[int], most: int, generator: torch.Generator) -> list[int]:
    """Draw `most` of the frames between two key frames, all choices equally likely, in their order; or take all."""
    chosen = torch.randperm(len(frames), generator=generator)[:most].sort().values
    return [frames[position] for position in chosen.tolist()]
