"""Recordings with depth and pose: the base class of on-disk layouts."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mvdiff.data.captions import EmptyCaptionError, read_caption
from mvdiff.data.frame_files import KEY_FRAMES, PROMPTS, VALID_FRAMES, numbers_in, read_key_frames, read_valid_frames
from mvdiff.data.resizing import Resizing, resized_depths, resized_intrinsics
from mvdiff.files.images import read_depth, read_image_uint8, stored_size
from mvdiff.files.paths import existing, expanded, kind_of, lack_of, own_name, visible
from mvdiff.samples import from_uint8

NOT_FINITE = "pose is not finite"
"""Reason for which a frame is always skipped, whatever `on_broken`: lost tracking is not damage."""

OnBroken = Literal["error", "skip"]
MissingCaption = Literal["error", "nearest", "empty"]
Kind = Literal["color", "depth", "pose", "intrinsics"]

_log = logging.getLogger(__name__)


class RecordingSource(ABC):
    """One posed RGB-D recording ("scene"): numbered frames with colour, depth, camera and optional captions.

    A layout is a subclass that sets `layout` and `parts` and defines `frames`, `file`, `load_intrinsics` and
    `load_pose`. If images are not separate files, it also overrides `load_image`, `load_depths` and `problem`. Lists of
    frames and captions are stored in the same way for every layout (`mvdiff.data.frame_files`).

    A frame is unusable if it lacks a file, its depth is 0 everywhere, or its pose is not finite; `unusable` counts such
    frames by reason.

    Args:
        path: Folder of the recording.
        on_broken: "error" stops at a listed frame that lacks a file; "skip" drops and counts it.
        missing_caption: Prompt of a frame without a caption: "error", "nearest" (that of the captioned frame closest in
            number), or "empty".

    Raises:
        FileNotFoundError: A part of the recording does not exist.
        ValueError: A setting is unknown.
    """

    layout: ClassVar[str]
    """Name of the layout."""
    parts: ClassVar[tuple[str, ...]]
    """Names of the files and folders that every recording has; the first one identifies the layout."""
    data_set: ClassVar[str | None] = None
    """Usual name of the folder that holds train/ and test/, if any."""
    remedy: ClassVar[str] = "Correct the path."
    """Advice shown if a part is missing."""
    resizing: Resizing = "exact"
    """Rule by which depths and intrinsics are resized; `open_recording` sets it."""
    depth_units_per_metre: float = 1000.0
    """Value in depth images that stands for one metre."""
    stored_axes: ClassVar[Literal["OpenCV", "OpenGL"]] = "OpenCV"
    """Axes of the cameras of the poses in the layout's files."""

    def __init__(
        self, path: str | Path, on_broken: OnBroken = "error", missing_caption: MissingCaption = "error"
    ) -> None:
        if on_broken not in ("error", "skip"):
            raise ValueError(f'on_broken must be "error" or "skip"; got {on_broken!r}.')
        if missing_caption not in ("error", "nearest", "empty"):
            raise ValueError(f'missing_caption must be "error", "nearest" or "empty"; got {missing_caption!r}.')
        self.path = expanded(path)
        for part in self.missing_parts(self.path):
            inner = visible(self.path) if kind_of(self.path) == "folder" and part.name == self.parts[0] else []
            for folder in inner:
                if self.recognises(folder):
                    raise FileNotFoundError(
                        f"{self.path} must be one scene; it holds several. Name one of them, such as {folder}."
                    )
            raise FileNotFoundError(
                f"{part} must be part of a scene ({self.layout} layout); it does not exist. {self.remedy}"
            )
        self.name = own_name(self.path)
        self.on_broken = on_broken
        self.missing_caption = missing_caption
        self.unusable: Counter[str] = Counter()
        self._counted: set[int] = set()

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Return True if a folder has this layout, even if the recording is incomplete."""
        return kind_of(existing(folder / cls.parts[0])) in ("file", "folder")

    @classmethod
    def missing_parts(cls, folder: Path) -> list[Path]:
        """Return the paths of missing parts."""
        return [folder / part for part in cls.parts if kind_of(existing(folder / part)) not in ("file", "folder")]

    @property
    @abstractmethod
    def frames(self) -> list[int]:
        """Numbers of all frames with a colour image, ascending in time."""

    @abstractmethod
    def file(self, kind: Kind, frame: int) -> Path:
        """Return the path of a frame's colour, depth, pose or intrinsics file, which need not exist.

        Raises:
            FileNotFoundError: The recording names no such file for the frame.
        """

    @abstractmethod
    def load_intrinsics(self, frame: int) -> Tensor:
        """Return K [3, 3], float64, in pixels of the depth images (`depth_size`); integers are pixel centres.

        Raises:
            FileNotFoundError: The intrinsics do not exist.
            ValueError: The intrinsics are malformed.
        """

    @abstractmethod
    def load_pose(self, frame: int) -> np.ndarray:
        """Return the pose [4, 4], float64, world-from-camera in OpenCV axes, metres; inf or NaN if tracking was lost.

        Raises:
            FileNotFoundError: The pose does not exist.
            ValueError: The pose is malformed.
        """

    def load_image(self, frame: int) -> Tensor:
        """Return the colour image [3, H, W], uint8, as stored: an EXIF orientation would part it from its depth."""
        return read_image_uint8(self.file("color", frame), oriented=False)

    def load_depths(self, frame: int) -> Tensor:
        """Return z-depth [H, W], float32 metres, 0 where unknown, at its stored size."""
        return read_depth(self.file("depth", frame), self.depth_units_per_metre)

    def depth_unit_advice(self, units_per_metre: float) -> str:
        """Return what to do if depth images have another unit than `depth_units_per_metre`."""
        return f"store depth images with {self.depth_units_per_metre:g} units a metre, not {units_per_metre:g}"

    def translation_advice(self, factor: float) -> str:
        """Return what to do if translations must be multiplied by a factor."""
        return (
            f"multiply the translations of its poses by {factor:g}"
            if factor >= 1
            else f"divide the translations of its poses by {1 / factor:g}"
        )

    def frames_of_any_file(self) -> list[int]:
        """Return the numbers of all frames with any file, for `mvdiff data check`."""
        return self.frames

    def naming_problems(self) -> Iterator[tuple[str, Path, str]]:
        """Yield (kind, path, details) of files that exist but are not read, for `mvdiff data check`."""
        if not self.frames:
            yield "no colour images", self.path, "a scene needs at least one frame"

    def caption_file(self, frame: int) -> Path:
        """Return the path of a frame's caption file, which need not exist."""
        return existing(self.path / PROMPTS / f"{frame}.txt")

    @cached_property
    def valid_frames(self) -> list[int]:
        """Numbers of the usable frames, ascending: those listed in valid_frames.npy, or else of all frames."""
        listed = existing(self.path / VALID_FRAMES)
        if listed.is_file():
            return self._usable(read_valid_frames(listed), VALID_FRAMES)
        _log.info("%s does not exist; reading all poses of the scene to find its usable frames", listed)
        return self._usable(self.frames, None)

    @cached_property
    def key_frames(self) -> list[int]:
        """Numbers of the usable key frames, ascending.

        Raises:
            FileNotFoundError: The list or, with `on_broken="error"`, a file of a listed frame does not exist.
            ValueError: The list is malformed.
        """
        return self._usable(read_key_frames(self.path / KEY_FRAMES), KEY_FRAMES)

    def _usable(self, frames: Iterable[int], listed_in: str | None) -> list[int]:
        """Return the usable frames; count the others, or raise."""
        usable = []
        for frame in frames:
            problem = self.problem(frame)
            if problem is None:
                usable.append(frame)
            elif problem[0] != NOT_FINITE and listed_in and self.on_broken == "error":
                raise FileNotFoundError(
                    f"{self.path / listed_in} must list complete frames; got {frame}, but {problem[1]}. Run "
                    f"`mvdiff data check {self.path}` to see all problems, `mvdiff data keyframes {self.path} "
                    '--overwrite` to make new lists, or set on_broken to "skip".'
                )
            elif frame not in self._counted:  # key frames are in both lists
                self._counted.add(frame)
                self.unusable[problem[0]] += 1
        return usable

    def problem(self, frame: int) -> tuple[str, str] | None:
        """Return the reason (kind, details) why a frame is unusable, or None.

        Only depth images whose files are small enough to be 0 everywhere are decoded, so zeros saved without
        compression go undetected.
        """
        for kind in ("color", "depth"):
            try:
                path = self.file(kind, frame)
            except FileNotFoundError as error:
                return f"no {kind}", str(error)
            if lack := lack_of(path):
                return f"no {kind}", f"{path} {lack}"
        if path.stat().st_size < self._least_depth_bytes and self._is_without_depth(frame):
            return "no depth", f"{path} is 0 everywhere"
        try:
            pose = self.checked_pose(frame)
        except (FileNotFoundError, ValueError) as error:
            return "no pose", str(error)
        return None if np.isfinite(pose).all() else (NOT_FINITE, f"{self.file('pose', frame)} is not finite")

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(height, width) of the depth images: the most frequent size among the first three readable ones."""
        sizes: Counter[tuple[int, int]] = Counter()
        for frame in self.frames:
            with suppress(ValueError, FileNotFoundError):
                width, height = stored_size(self.file("depth", frame))
                sizes[height, width] += 1
            if sizes.total() == 3:
                break
        if not sizes:
            raise ValueError(f"{self.path} must have at least one readable depth image; got none.")
        return sizes.most_common(1)[0][0]

    @cached_property
    def _least_depth_bytes(self) -> int:
        """File size that a PNG depth image exceeds unless nearly all of its pixels are equal."""
        try:
            height, width = self.depth_size
        except ValueError:
            return 0  # no image is readable; reading one reports it
        return height * width * 2 // 100 + 1024

    def _is_without_depth(self, frame: int) -> bool:
        try:
            return not bool(self.load_depths(frame).any())
        except (ValueError, FileNotFoundError):
            return False  # broken image; reading it reports it

    def intrinsics(self, height: int, width: int, frame: int | None = None) -> Tensor:
        """Return K [3, 3], float64, of a frame resized to `height` x `width` pixels; None: the first frame.

        Raises:
            FileNotFoundError: The intrinsics do not exist.
            ValueError: The intrinsics are malformed, or do not match the size of the depth images.
        """
        if frame is None:
            if not self.frames:
                raise ValueError(f"{self.path} must have at least one frame; got none.")
            frame = self.frames[0]
        full_height, full_width = self.depth_size
        K, path = self.load_intrinsics(frame), self.file("intrinsics", frame)
        if not (bool(torch.isfinite(K).all()) and K[0, 0] > 0 and K[1, 1] > 0 and K[2].tolist() == [0, 0, 1]):
            raise ValueError(f"{path} must be intrinsics with positive focal lengths; got {K.tolist()}.")
        for name, middle, size in (("width", float(K[0, 2]), full_width), ("height", float(K[1, 2]), full_height)):
            if abs(middle / size - 0.5) > 0.2:  # rejects intrinsics of images 1.4 times as large or as small
                raise ValueError(
                    f"{path} must be in pixels of the depth images, {full_width}x{full_height}; got a principal point "
                    f"({K[0, 2]:g}, {K[1, 2]:g}), far from the middle of the {name}."
                )
        return resized_intrinsics(K, width / full_width, height / full_height, self.resizing)

    def checked_pose(self, frame: int) -> np.ndarray:
        """Return the pose [4, 4] of `load_pose` after checking it; it may still be non-finite.

        Raises:
            FileNotFoundError: The pose does not exist.
            ValueError: The pose is malformed, or finite but not a rotation with a translation.
        """
        pose = self.load_pose(frame)
        if np.isfinite(pose).all():
            R = pose[:3, :3]
            if np.abs(R @ R.T - np.eye(3)).max() > 0.02 or np.linalg.det(R) < 0 or pose[3].tolist() != [0, 0, 0, 1]:
                raise ValueError(
                    f"{self.file('pose', frame)} must be a rotation and a translation (world-from-camera); got "
                    f"{pose.tolist()} at frame {frame}."
                )
        return pose

    def pose(self, frame: int) -> tuple[Tensor, Tensor]:
        """Return R [3, 3] world-from-camera and t [3] camera centre in the world in metres, both float64.

        Raises:
            FileNotFoundError: The pose does not exist.
            ValueError: The pose is malformed or not finite.
        """
        pose = torch.from_numpy(self.checked_pose(frame))
        if not bool(torch.isfinite(pose).all()):
            raise ValueError(
                f"{self.file('pose', frame)} must be finite; got {pose.tolist()}. Run `mvdiff data keyframes "
                f"{self.path} --overwrite` to leave the frame out."
            )
        return pose[:3, :3], pose[:3, 3]

    def image(self, frame: int, height: int, width: int) -> Tensor:
        """Return the colour image [3, H, W] in [-1, 1], resized by antialiased bilinear interpolation."""
        image = self.load_image(frame).float()
        if image.shape[1:] != (height, width):
            image = interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
        return from_uint8(image)

    def depths(self, frame: int, height: int, width: int) -> Tensor:
        """Return `stored_depths` resized to [H, W] by nearest neighbour."""
        return resized_depths(self.stored_depths(frame), height, width, self.resizing)

    def stored_depths(self, frame: int) -> Tensor:
        """Return z-depth [H, W] in metres, 0 where unknown, at `depth_size`.

        Raises:
            ValueError: The file is broken, or its size is not `depth_size`, to which the intrinsics refer.
        """
        depths = self.load_depths(frame)
        if tuple(depths.shape) != self.depth_size:
            raise ValueError(
                f"{self.file('depth', frame)} must be {self.depth_size[1]}x{self.depth_size[0]}, like the other "
                f"depth images of the scene; got {depths.shape[1]}x{depths.shape[0]}. "
                f"Run `mvdiff data check {self.path}`."
            )
        return depths

    @property
    def has_captions(self) -> bool:
        """True if any frame has a caption."""
        captioned = numbers_in(self.path / PROMPTS)
        return len(self.without_caption(captioned)) < len(captioned)

    def without_caption(self, frames: Iterable[int]) -> list[int]:
        """Return the frames without a caption file or with an empty one."""
        paths = ((frame, self.caption_file(frame)) for frame in frames)
        return [frame for frame, path in paths if lack_of(path)]

    def prompt(self, frame: int) -> str:
        """Return the prompt of a frame; see `missing_caption`.

        Raises:
            FileNotFoundError: The frame or, with "nearest", the whole scene has no caption.
            ValueError: A caption is not UTF-8 or, with "error", empty.
        """
        if self.missing_caption == "error":
            return read_caption(self.caption_file(frame))
        for other in self._captioned_near(frame):
            try:
                return read_caption(self.caption_file(other))
            except (FileNotFoundError, EmptyCaptionError):
                continue
        if self.missing_caption == "empty":
            return ""
        raise FileNotFoundError(
            f"{self.path / PROMPTS} must hold at least one caption; got none. Run `mvdiff data caption "
            f'{self.path}`, or set missing_caption to "empty".'
        )

    def _captioned_near(self, frame: int) -> Iterator[int]:
        """Yield the frame and then, with "nearest", the frames with a caption file, closest first."""
        yield frame
        if self.missing_caption == "nearest":
            captioned = numbers_in(self.path / PROMPTS)
            yield from sorted(captioned, key=lambda other: (abs(other - frame), other))
