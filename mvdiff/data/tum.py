"""The TUM RGB-D layout: lists of colour images, depth images and poses with time stamps (docs/data.md).

```
<recording>/rgb.txt           lines "time file"; frame i is entry i
           /depth.txt         lines "time file"; 16-bit PNG, 5000 per metre, 0 = unknown, registered to colour
           /groundtruth.txt   lines "time tx ty tz qx qy qz qw"; world-from-camera, metres, OpenCV axes
           /camera.txt        "fx fy cx cy" in pixels of the depth images (mvdiff's addition to the layout)
```

A frame uses the depth and pose nearest in time. Lines that start with # are comments.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.depth_units import unit_setting
from mvdiff.data.frame_files import check_listed, folders_of
from mvdiff.data.numbers import check_number
from mvdiff.data.recordings import Kind, MissingCaption, OnBroken, RecordingSource
from mvdiff.files.paths import below, existing, kind_of, listed_name
from mvdiff.files.text import read_lines

CAMERA = "camera.txt"
ROS_INTRINSICS, ROS_SIZE = (525.0, 525.0, 319.5, 239.5), (480, 640)
"""Default fx, fy, cx, cy of ROS for such cameras, and the (height, width) to which they apply."""

_log = logging.getLogger(__name__)


class TumRecording(RecordingSource):
    """A recording in the TUM RGB-D layout.

    Args:
        path: Folder of rgb.txt.
        on_broken: See `RecordingSource`.
        missing_caption: See `RecordingSource`.
        intrinsics: (fx, fy, cx, cy) in pixels of the depth images; None: those of camera.txt, else for 640x480 images
            the ROS defaults (525, 525, 319.5, 239.5).
        depth_units_per_metre: Value in depth images that stands for one metre.
        max_seconds: Largest time difference in seconds between a colour image and its depth or pose.

    Raises:
        FileNotFoundError: A list does not exist.
        ValueError: A list is malformed, or a setting is out of range.
    """

    layout = "TUM RGB-D"
    parts = ("rgb.txt", "depth.txt", "groundtruth.txt")

    def __init__(
        self,
        path: str | Path,
        on_broken: OnBroken = "error",
        missing_caption: MissingCaption = "error",
        intrinsics: Sequence[float] | None = None,
        depth_units_per_metre: float = 5000.0,
        max_seconds: float = 0.02,
    ) -> None:
        super().__init__(path, on_broken, missing_caption)
        if intrinsics is not None:
            if isinstance(intrinsics, str) or not isinstance(intrinsics, Sequence) or len(intrinsics) != 4:
                raise ValueError(f"intrinsics must be a list of fx, fy, cx and cy; got {intrinsics!r}.")
            names = zip(("fx", "fy", "cx", "cy"), intrinsics, strict=True)
            intrinsics = [check_number(f"{name} of intrinsics", one, name in ("fx", "fy")) for name, one in names]
        if check_number("max_seconds", max_seconds, positive=False) < 0:
            raise ValueError(f"max_seconds must be at least 0; got {max_seconds}.")
        self._intrinsics = intrinsics
        self.depth_units_per_metre = check_number("depth_units_per_metre", depth_units_per_metre)
        rgb, depth, poses = (existing(self.path / part) for part in self.parts)
        times, self._colours = _read_files(rgb)
        depth_times, depths = _read_files(depth)
        pose_times, self._poses = _read_poses(poses)
        if not (np.diff(times) > 0).all():
            raise ValueError(f"{rgb} must have strictly increasing times.")
        self._times = times
        self._max_seconds = max_seconds
        self._depths = [None if i is None else depths[i] for i in nearest(depth_times, times, max_seconds)]
        self._pose_rows = nearest(pose_times, times, max_seconds)

    @property
    def frames(self) -> list[int]:
        """Frame numbers: indices of entries in rgb.txt."""
        return list(range(len(self._times)))

    def file(self, kind: Kind, frame: int) -> Path:
        """Return the colour or depth file of a frame, or the recording's file of poses or intrinsics."""
        if kind == "color":
            return self._named(self._listed(self._colours, frame), "rgb.txt")
        if kind == "depth":
            return self._named(self._associated(self._depths, "depth.txt", frame), "depth.txt")
        return self.path / (CAMERA if kind == "intrinsics" else "groundtruth.txt")

    def _named(self, name: str, named_in: str) -> Path:
        paths = [below(folder, name) for folder in folders_of(existing(self.path / named_in))]
        return next((path for path in paths if kind_of(path) == "file"), paths[0])

    def _listed(self, values: Sequence, frame: int):
        check_listed(self.path / "rgb.txt", frame, len(values))
        return values[frame]

    def _associated(self, values: Sequence, name: str, frame: int):
        value = self._listed(values, frame)
        if value is None:
            raise FileNotFoundError(
                f"{self.path / name} must have a line within {self._max_seconds:g} s of {self._times[frame]:.6f} "
                f"(frame {frame})."
            )
        return value

    @cached_property
    def _K(self) -> Tensor:
        path = existing(self.path / CAMERA)
        if self._intrinsics is not None:
            values = self._intrinsics
        elif path.is_file():
            values = _numbers(path, [[word for row in _read_rows(path) for word in row]])[0].tolist()
        elif self.depth_size == ROS_SIZE:
            _log.warning("%s does not exist; using ROS's default fx fy cx cy = 525 525 319.5 239.5", path)
            values = list(ROS_INTRINSICS)
        else:
            height, width = self.depth_size
            raise FileNotFoundError(
                f'{path} must hold "fx fy cx cy" of the depth images, {width}x{height}; it does not exist.'
            )
        if len(values) != 4:
            raise ValueError(f"{path} must hold fx, fy, cx and cy; got {values}.")
        fx, fy, cx, cy = values
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)

    def depth_unit_advice(self, units_per_metre: float) -> str:
        """Name the setting of the unit of depth images."""
        return unit_setting(type(self), units_per_metre)

    def load_intrinsics(self, frame: int) -> Tensor:
        """Return K [3, 3], the same for all frames."""
        return self._K

    def load_pose(self, frame: int) -> np.ndarray:
        """Return the pose [4, 4] nearest in time to a frame."""
        return pose_matrix(self._poses[self._associated(self._pose_rows, "groundtruth.txt", frame)])


def nearest(times: np.ndarray, wanted: np.ndarray, max_seconds: float) -> list[int | None]:
    """Return, for each wanted time, the index of the nearest one in `times`; None if it is over `max_seconds` away.

    Example:
        >>> nearest(np.array([1.00, 1.03, 1.06]), np.array([1.01, 1.02, 1.10]), 0.02)
        [0, 1, None]
    """
    if not len(times):
        return [None] * len(wanted)
    order = np.argsort(times, kind="stable")
    sorted_times = times[order]
    after = np.searchsorted(sorted_times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    closer = np.where(abs(sorted_times[before] - wanted) <= abs(sorted_times[after] - wanted), before, after)
    near = abs(sorted_times[closer] - wanted) <= max_seconds
    return [int(order[i]) if ok else None for i, ok in zip(closer, near, strict=True)]


def pose_matrix(values: Sequence[float]) -> np.ndarray:
    """Return the matrix [4, 4] of (tx, ty, tz, qx, qy, qz, qw), scalar last; all NaN if a number is not finite.

    Raises:
        ValueError: The length of the quaternion differs from 1 by more than 0.01.

    Example:
        >>> pose_matrix([1, 2, 3, 0, 0.5**0.5, 0, 0.5**0.5])[0].round(6).tolist()  # about y by 90 degrees: z turns to x
        [-0.0, 0.0, 1.0, 1.0]
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        return np.full((4, 4), np.nan)
    length = np.linalg.norm(values[3:])
    if abs(length - 1) > 0.01:
        raise ValueError(f"qx qy qz qw must be a quaternion of length 1; got {values[3:].tolist()}.")
    x, y, z, w = values[3:] / length
    pose = np.eye(4)
    pose[:3, 3] = values[:3]
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return pose


def _read_files(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return times [N] and file names of a list; names may contain spaces."""
    rows = [(row[0], " ".join(row[1:])) for row in _read_rows(path)]
    if not rows or not all(name for _, name in rows):
        raise ValueError(f'{path} must have lines of "time file"; got {"none" if not rows else "one without a file"}.')
    return _numbers(path, [[time] for time, _ in rows])[:, 0], [
        listed_name(name, f"{path} entry {number}", inside=False) for number, (_, name) in enumerate(rows)
    ]


def _read_poses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return times [N] and tx, ty, tz, qx, qy, qz, qw [N, 7]."""
    rows = _read_rows(path)
    if not rows or any(len(row) != 8 for row in rows):
        wrong = next((" ".join(row) for row in rows if len(row) != 8), "no line")
        raise ValueError(f'{path} must have lines of "time tx ty tz qx qy qz qw"; got {wrong!r}.')
    values = _numbers(path, rows)
    return values[:, 0], values[:, 1:]


def _numbers(path: Path, rows: list[list[str]]) -> np.ndarray:
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers; got {error}.") from error


def _read_rows(path: Path) -> list[list[str]]:
    """Return the words of each line, without empty lines and comments; commas count as spaces."""
    rows = [line.replace(",", " ").split() for line in read_lines(path, comment="#")]
    return [row for row in rows if row]
