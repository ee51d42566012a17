"""The transforms.json layout of nerfstudio and instant-ngp, with depth images (docs/data.md).

```
<recording>/transforms.json   cameras and file names; frame i is entry i of its list, which must be in order of time
           /images/..., /depth/...   files named in transforms.json
```

`transform_matrix` is camera-to-world in OpenGL axes (x right, y up, z backward). Principal points are measured from the
image corner, as in COLMAP. Keys of a frame override keys of the file.
"""

from __future__ import annotations

import reprlib
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.frame_files import check_listed, folders_of
from mvdiff.data.numbers import check_number
from mvdiff.data.recordings import Kind, MissingCaption, OnBroken, RecordingSource
from mvdiff.files.images import IMAGE_SUFFIXES, stored_size
from mvdiff.files.paths import below, existing, first_existing, kind_of, listed_name
from mvdiff.files.text import read_json_object
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.sampling import pixel_from_corner

NAME = "transforms.json"
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "p3", "p4")
"""Keys of lens distortion, which must be 0."""
_PINHOLE = (None, "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Camera models that are pinholes if their distortion is 0."""


class TransformsRecording(RecordingSource):
    """A recording in the transforms.json layout.

    Args:
        path: Folder of transforms.json.
        on_broken: See `RecordingSource`.
        missing_caption: See `RecordingSource`.
        depth_unit_scale_factor: Metres per unit of a depth image; None: `depth_unit_scale_factor` or
            `integer_depth_scale` of the file, else 0.001.

    Raises:
        FileNotFoundError: transforms.json does not exist.
        ValueError: transforms.json is malformed, or its cameras are not pinholes.
    """

    layout = NAME
    parts = (NAME,)
    stored_axes = "OpenGL"

    def __init__(
        self,
        path: str | Path,
        on_broken: OnBroken = "error",
        missing_caption: MissingCaption = "error",
        depth_unit_scale_factor: float | None = None,
    ) -> None:
        super().__init__(path, on_broken, missing_caption)
        self._json = existing(self.path / NAME)
        self._shared, self._frames = _read(self._json)
        for values in (self._shared, *self._frames):
            _check_pinhole(self._json, values)
        if depth_unit_scale_factor is None:
            depth_unit_scale_factor = self._number(
                self._shared, "depth_unit_scale_factor", self._shared.get("integer_depth_scale", 0.001)
            )
        self.depth_units_per_metre = 1 / check_number("depth_unit_scale_factor", depth_unit_scale_factor)
        self._applied_scale = self._number(self._shared, "applied_scale", 1.0)
        if not self._applied_scale > 0:
            raise ValueError(f"{self._json} must have a positive applied_scale; got {self._applied_scale:g}.")

    def depth_unit_advice(self, units_per_metre: float) -> str:
        """Name the key of the unit of depth images."""
        return f"set depth_unit_scale_factor in {NAME} to {1 / units_per_metre:g}"

    def translation_advice(self, factor: float) -> str:
        """Name the key of the unit of translations."""
        return f"set applied_scale in {NAME} to {self._applied_scale / factor:g}"

    @property
    def frames(self) -> list[int]:
        """Frame numbers: indices in the list of frames of transforms.json."""
        return list(range(len(self._frames)))

    def file(self, kind: Kind, frame: int) -> Path:
        """Return the colour or depth file of a frame (its suffix may be omitted in the JSON), or transforms.json."""
        if kind in ("pose", "intrinsics"):
            return self._json
        values = self._frame(frame)
        name = values["file_path"] if kind == "color" else values.get("depth_file_path", values.get("depth_path"))
        if not isinstance(name, str):
            raise FileNotFoundError(f"{self._json} must have a depth_file_path for frame {frame}.")
        suffixes = ("", *IMAGE_SUFFIXES)
        exact = [folder / (name + suffix) for folder in folders_of(self._json) for suffix in suffixes]
        if kind_of(path := first_existing(exact)) == "file":
            return path
        paths = [below(folder, name + suffix) for folder in folders_of(self._json) for suffix in suffixes]
        return next((path for path in paths if kind_of(path) == "file"), paths[0])

    def load_intrinsics(self, frame: int) -> Tensor:
        """Return K [3, 3] of a frame in pixels of the depth images."""
        values = self._shared | self._frame(frame)
        if "w" not in values or "h" not in values:
            values["w"], values["h"] = stored_size(self.file("color", frame))
        width, height = self._number(values, "w"), self._number(values, "h")
        if not (width > 0 and height > 0):
            raise ValueError(f"{self._json} must have a positive w and h; got {width:g} and {height:g}.")
        fl_x = self._number(values, "fl_x")
        K = torch.eye(3, dtype=torch.float64)
        K[0, 0], K[1, 1] = fl_x, self._number(values, "fl_y", fl_x)
        K[0, 2] = pixel_from_corner(self._number(values, "cx", width / 2))
        K[1, 2] = pixel_from_corner(self._number(values, "cy", height / 2))
        depth_height, depth_width = self.depth_size
        return resize_intrinsics(K, scale_x=depth_width / width, scale_y=depth_height / height)

    def load_pose(self, frame: int) -> np.ndarray:
        """Return the pose [4, 4] of a frame in OpenCV axes and metres (positions divided by `applied_scale`)."""
        matrix = self._frame(frame).get("transform_matrix")
        try:
            pose = np.array(matrix, dtype=np.float64)
        except (TypeError, ValueError):
            pose = np.empty(0)
        if pose.shape not in ((4, 4), (3, 4)):
            raise ValueError(f"{self._json} must have a 4x4 transform_matrix at frame {frame}; got {str(matrix)[:80]}.")
        if len(pose) == 3:
            pose = np.vstack([pose, [0, 0, 0, 1]])
        pose[:3, 1:3] *= -1  # y up and z backward -> y down and z forward
        pose[:3, 3] /= self._applied_scale
        return pose

    def _frame(self, frame: int) -> dict[str, Any]:
        check_listed(self._json, frame, len(self._frames))
        return self._frames[frame]

    def _number(self, values: dict[str, Any], key: str, default: float | None = None) -> float:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{self._json} must have a number for {key}; got {reprlib.repr(value)}.")
        return float(value)


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the file's own keys, shared by all frames, and the frames."""
    content = read_json_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{path} must have a list of frames; got {str(frames)[:80]}.")
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"{path} must have a file_path at frame {number}; got {str(frame)[:80]}.")
        for key in ("file_path", "depth_file_path", "depth_path"):
            if isinstance(frame.get(key), str):
                frame[key] = listed_name(frame[key], f"{key} of frame {number} in {path}", inside=False)
    return {key: value for key, value in content.items() if key != "frames"}, frames


def _check_pinhole(path: Path, values: dict[str, Any]) -> None:
    for key in DISTORTION:
        if values.get(key) not in (None, 0):
            raise ValueError(f"{path} must have no distortion; got {key} = {values[key]}. Undistort the images first.")
    model = values.get("camera_model")
    if model not in _PINHOLE or values.get("is_fisheye"):
        raise ValueError(f"{path} must have pinhole cameras; got camera_model {model!r}. Undistort the images first.")
