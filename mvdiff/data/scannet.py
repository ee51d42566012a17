"""The ScanNet layout: scenes of colour frames with depth, pose and captions, read as they are (docs/data.md).

```
root/{train,test}/<scene>/color/<i>.jpg               (or .png) frame i of a recording
                         /depth/<i>.png               16-bit millimetres, 0 = none
                         /pose/<i>.txt                4x4 world-from-camera, metres; inf or NaN where tracking was lost
                         /intrinsic/intrinsic_depth.txt  4x4 (or 3x3), in pixels of the depth images
                         /prompt/<i>.txt              line 1 is the prompt
                         /key_frame_0.6.txt           key frames, a frame number a line  (`mvdiff data keyframes`)
                         /valid_frames.npy            numbers of the usable frames       (`mvdiff data keyframes`)
```
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mvdiff.data.images import IMAGE_SUFFIXES, image_size, read_depth, read_image_uint8
from mvdiff.data.matterport3d import read_caption
from mvdiff.data.panoramas import EmptyCaptionError
from mvdiff.data.scannet_files import (
    KEY_FRAMES,
    VALID_FRAMES,
    numbers_in,
    read_intrinsics,
    read_key_frames,
    read_pose,
    read_valid_frames,
)
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.samples import from_uint8

NOT_FINITE = "pose is not finite"
"""Why a frame is left out whatever `on_broken` says: recordings lose track, and nothing is broken."""

OnBroken = Literal["error", "skip"]
MissingCaption = Literal["error", "nearest", "empty"]

_log = logging.getLogger(__name__)


class ScanNetScene:
    """One scene: its frames by number, each with colour, depth, pose and prompt.

    Frames that lack a file, whose depth is 0 everywhere, or whose pose is not finite are not usable; `unusable` counts
    them by reason.

    Args:
        path: The scene's folder.
        on_broken: What to do where a list names a frame that lacks a file: "error", or "skip": leave it out, counted.
        missing_caption: What the prompt of a frame without caption is: "error", "nearest" (that of the frame nearest
            in number that has one), or "empty".

    Raises:
        FileNotFoundError: The folder is not there, or not whole.
        ValueError: A setting is unknown.
    """

    def __init__(
        self, path: str | Path, on_broken: OnBroken = "error", missing_caption: MissingCaption = "error"
    ) -> None:
        if on_broken not in ("error", "skip"):
            raise ValueError(f'on_broken must be "error" or "skip"; got {on_broken!r}.')
        if missing_caption not in ("error", "nearest", "empty"):
            raise ValueError(f'missing_caption must be "error", "nearest" or "empty"; got {missing_caption!r}.')
        self.path = Path(path)
        for sub in ("color", "depth", "pose"):
            if not (self.path / sub).is_dir():
                inner = next(iter(sorted(self.path.glob("*/color"))), None)
                if inner is not None and sub == "color":
                    raise FileNotFoundError(
                        f"{self.path} must be one scene; it holds scenes. Name one of them, such as {inner.parent}."
                    )
                raise FileNotFoundError(
                    f"{self.path / sub} must be a folder of a scene; it does not exist. Correct the path, or decode "
                    "the scene's .sens file with `mvdiff data import-sens`."
                )
        self.name = self.path.resolve().name
        self.on_broken = on_broken
        self.missing_caption = missing_caption
        self.unusable: Counter[str] = Counter()
        self._counted: set[int] = set()

    def file(self, kind: Literal["color", "depth", "pose", "prompt"], frame: int) -> Path:
        """Return the path of a frame's file; for colour that of the image that is there (.jpg where none is)."""
        if kind == "color":
            paths = [self.path / "color" / f"{frame}{suffix}" for suffix in IMAGE_SUFFIXES]
            return next((path for path in paths if path.is_file()), paths[0])
        return self.path / kind / f"{frame}{'.png' if kind == 'depth' else '.txt'}"

    @cached_property
    def valid_frames(self) -> list[int]:
        """Numbers of the usable frames, ascending: those of valid_frames.npy, or else all that are whole."""
        listed = self.path / VALID_FRAMES
        if listed.is_file():
            return self._usable(read_valid_frames(listed), VALID_FRAMES)
        _log.info("%s does not exist: all poses of the scene are read to find its usable frames", listed)
        return self._usable(numbers_in(self.path / "color"), None)

    @cached_property
    def key_frames(self) -> list[int]:
        """Numbers of the usable key frames, ascending.

        Raises:
            FileNotFoundError: There is no list, or with `on_broken="error"` a listed frame lacks a file.
            ValueError: The list is malformed.
        """
        return self._usable(read_key_frames(self.path / KEY_FRAMES), KEY_FRAMES)

    def _usable(self, frames: Iterable[int], listed_in: str | None) -> list[int]:
        """Keep the usable ones of some frames; count the others, or stop at them."""
        kept = []
        for frame in frames:
            problem = self.problem(frame)
            if problem is None:
                kept.append(frame)
            elif problem[0] != NOT_FINITE and listed_in and self.on_broken == "error":
                raise FileNotFoundError(
                    f"{self.path / listed_in} must list frames that are whole; got {frame}, but {problem[1]}. Run "
                    f"`mvdiff data check {self.path}` to see all, `mvdiff data keyframes {self.path} "
                    "--overwrite` to choose anew, "
                    'or set on_broken to "skip".'
                )
            elif frame not in self._counted:  # a key frame is in both lists
                self._counted.add(frame)
                self.unusable[problem[0]] += 1
        return kept

    def problem(self, frame: int) -> tuple[str, str] | None:
        """Say why a frame is not usable: (kind, details); None if it is.

        No image is decoded but depths whose file is so small that they may be 0 everywhere. (Zeros that were saved
        without compression are thus not found; they show each other nothing.)
        """
        for kind in ("color", "depth"):
            path = self.file(kind, frame)
            if not (path.is_file() and path.stat().st_size):
                return f"no {kind}", f"{path} is {'empty' if path.is_file() else 'not there'}"
        if path.stat().st_size < self._least_depth_bytes and self._is_without_depth(path):
            return "no depth", f"{path} is 0 everywhere"
        try:
            pose = read_pose(self.file("pose", frame))
        except (FileNotFoundError, ValueError) as error:
            return "no pose", str(error)
        return None if np.isfinite(pose).all() else (NOT_FINITE, f"{self.file('pose', frame)} is not finite")

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(height, width) of the scene's depth images: that of most of the first three that can be opened."""
        sizes = []
        for frame in numbers_in(self.path / "depth"):
            try:
                width, height = image_size(self.file("depth", frame), decode=False)
            except (ValueError, FileNotFoundError):
                continue
            sizes.append((height, width))
            if len(sizes) == 3:
                break
        if not sizes:
            raise ValueError(f"{self.path / 'depth'} must hold a depth image <i>.png that can be opened; got none.")
        return Counter(sizes).most_common(1)[0][0]

    @cached_property
    def _least_depth_bytes(self) -> int:
        """Size that a depth image of the scene exceeds unless nearly all of it is one value, as PNG packs such."""
        try:
            height, width = self.depth_size
        except ValueError:
            return 0  # no image opens, which is named when one is read
        return height * width * 2 // 100 + 1024

    @staticmethod
    def _is_without_depth(path: Path) -> bool:
        try:
            return not bool(read_depth(path).any())
        except (ValueError, FileNotFoundError):
            return False  # a broken image: named when it is read

    @cached_property
    def _K(self) -> Tensor:
        return read_intrinsics(self.path / "intrinsic" / "intrinsic_depth.txt", *self.depth_size)

    def intrinsics(self, height: int, width: int) -> Tensor:
        """Return K [3, 3], float64, in pixels of the scene's frames resized to a size.

        Raises:
            FileNotFoundError: There are no intrinsics.
            ValueError: They are malformed or for another size than that of the depth images.
        """
        full_height, full_width = self.depth_size
        return resize_intrinsics(self._K, scale_x=width / full_width, scale_y=height / full_height)

    def pose(self, frame: int) -> tuple[Tensor, Tensor]:
        """Return R [3, 3], world-from-camera, and t [3], camera centre in metres, float64.

        Raises:
            FileNotFoundError: There is no pose.
            ValueError: It is malformed or not finite.
        """
        path = self.file("pose", frame)
        pose = torch.from_numpy(read_pose(path))
        if not bool(torch.isfinite(pose).all()):
            raise ValueError(
                f"{path} must be finite; got {pose.tolist()}. Leave the frame out: `mvdiff data keyframes {self.path} "
                "--overwrite`."
            )
        return pose[:3, :3], pose[:3, 3]

    def image(self, frame: int, height: int, width: int) -> Tensor:
        """Return the colour image [3, H, W] in [-1, 1], resized by antialiased bilinear interpolation."""
        image = read_image_uint8(self.file("color", frame)).float()
        if image.shape[1:] != (height, width):
            image = interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
        return from_uint8(image)

    def depths(self, frame: int, height: int, width: int) -> Tensor:
        """Return z-depth [H, W] in metres, 0 = none: each pixel has the depth of the file's pixel nearest its centre.

        Raises:
            ValueError: The file is broken or not of the scene's depth size, for which the intrinsics are.
        """
        return resize_depths(self.stored_depths(frame), height, width)

    def stored_depths(self, frame: int) -> Tensor:
        """Return z-depth [H, W] in metres at the size of the scene's depth images.

        Raises:
            ValueError: The file is broken or not of the scene's depth size, for which the intrinsics are.
        """
        path = self.file("depth", frame)
        depths = read_depth(path)
        if tuple(depths.shape) != self.depth_size:
            raise ValueError(
                f"{path} must be {self.depth_size[1]}x{self.depth_size[0]} as the scene's others; got "
                f"{depths.shape[1]}x{depths.shape[0]}. Run `mvdiff data check {self.path}`."
            )
        return depths

    @property
    def has_captions(self) -> bool:
        """Whether any frame has a caption."""
        captioned = numbers_in(self.path / "prompt")
        return len(self.without_caption(captioned)) < len(captioned)

    def without_caption(self, frames: Iterable[int]) -> list[int]:
        """Return those of some frames that have no caption file, or an empty one."""
        paths = ((frame, self.file("prompt", frame)) for frame in frames)
        return [frame for frame, path in paths if not (path.is_file() and path.stat().st_size)]

    def prompt(self, frame: int) -> str:
        """Return a frame's prompt; see `missing_caption`.

        Raises:
            FileNotFoundError: The frame, or with "nearest" the whole scene, has no caption.
            ValueError: A caption is not UTF-8 or, with "error", empty.
        """
        if self.missing_caption == "error":
            return read_caption(self.file("prompt", frame))
        for other in self._captioned_near(frame):
            try:
                return read_caption(self.file("prompt", other))
            except (FileNotFoundError, EmptyCaptionError):
                continue
        if self.missing_caption == "empty":
            return ""
        raise FileNotFoundError(
            f"{self.path / 'prompt'} must hold a caption of at least one frame; got none. Run `mvdiff data caption "
            f'{self.path}`, or set missing_caption to "empty".'
        )

    def _captioned_near(self, frame: int) -> Iterator[int]:
        """Yield the frame, then with "nearest" those that have a caption file, the nearest first."""
        yield frame
        if self.missing_caption == "nearest":
            captioned = numbers_in(self.path / "prompt")
            yield from sorted(captioned, key=lambda other: (abs(other - frame), other))


def resize_depths(depths: Tensor, height: int, width: int) -> Tensor:
    """Resize depths [H, W]: each pixel takes the value of the pixel nearest its centre, a tie right and down.

    Example:
        >>> resize_depths(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 1, 2).tolist()
        [[2.0, 4.0]]
    """
    return interpolate(depths[None, None], (height, width), mode="nearest-exact")[0, 0]
