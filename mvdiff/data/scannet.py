"""The ScanNet layout: scenes of colour frames with depth, pose and captions, read as they are (docs/data.md).

```
root/{train,test}/<scene>/color/<i>.jpg               (or .png) frame i of a recording
                         /depth/<i>.png               16-bit millimetres, 0 = none
                         /pose/<i>.txt                4x4 world-from-camera, metres; inf or NaN where tracking was lost
                         /intrinsic/intrinsic_depth.txt  4x4 (or 3x3), in pixels of the depth images
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.depth_units import unit_setting
from mvdiff.data.frame_files import numbers_in
from mvdiff.data.numbers import check_number
from mvdiff.data.recordings import Kind, MissingCaption, OnBroken, RecordingSource
from mvdiff.files.images import CHECK, IMAGE_SUFFIXES
from mvdiff.files.paths import existing, first_existing, visible
from mvdiff.files.text import read_text

_SUFFIXES = {"color": IMAGE_SUFFIXES, "depth": (".png",), "pose": (".txt",)}


class ScanNetScene(RecordingSource):
    """One scene in the ScanNet layout; frame numbers are those of the files.

    Args:
        path: Folder of color/.
        on_broken: See `RecordingSource`.
        missing_caption: See `RecordingSource`.
        depth_units_per_metre: Value in depth images that stands for one metre; 4000 for Matterport3D's depth images.

    Raises:
        FileNotFoundError: A part of the scene does not exist.
        ValueError: A setting is out of range.
    """

    layout = "scannet"
    parts = ("color", "depth", "pose")
    data_set = "scannet"
    remedy = "Correct the path, or decode the scene's .sens file with `mvdiff data import-sens`."

    def __init__(
        self,
        path: str | Path,
        on_broken: OnBroken = "error",
        missing_caption: MissingCaption = "error",
        depth_units_per_metre: float = 1000.0,
    ) -> None:
        super().__init__(path, on_broken, missing_caption)
        self.depth_units_per_metre = check_number("depth_units_per_metre", depth_units_per_metre)

    def depth_unit_advice(self, units_per_metre: float) -> str:
        """Name the setting of the unit of depth images."""
        return unit_setting(type(self), units_per_metre)

    @cached_property
    def frames(self) -> list[int]:
        """Numbers of the colour images, ascending."""
        return numbers_in(self.path / "color")

    def file(self, kind: Kind, frame: int) -> Path:
        """Return the path of a frame's file; colour may have any ending of an image (.jpg if there is none)."""
        if kind == "intrinsics":
            return existing(self.path / "intrinsic" / "intrinsic_depth.txt")
        return first_existing([self.path / kind / f"{frame}{suffix}" for suffix in _SUFFIXES[kind]])

    @cached_property
    def _K(self) -> Tensor:
        values = _read_numbers(self.file("intrinsics", 0), (9, 16))
        side = 3 if values.size == 9 else 4
        return torch.from_numpy(values.reshape(side, side)[:3, :3].copy())

    def load_intrinsics(self, frame: int) -> Tensor:
        """Return the scene's K [3, 3]."""
        return self._K

    def load_pose(self, frame: int) -> np.ndarray:
        """Read the pose [4, 4] of a frame."""
        return _read_numbers(self.file("pose", frame), (16,)).reshape(4, 4)

    def frames_of_any_file(self) -> list[int]:
        """Return the numbers of all colour images, depth images and poses."""
        return sorted({number for part in self.parts for number in numbers_in(self.path / part)})

    def naming_problems(self) -> Iterator[tuple[str, Path, str]]:
        """Yield folders of files with zero-padded numbers, which are not read, or without any colour image."""
        for part, suffixes in _SUFFIXES.items():
            folder = self.path / part
            names = [path.name for path in visible(folder, *suffixes)]
            if padded := [name for name in names if re.fullmatch(r"0[0-9]+\.\w+", name)]:
                example = Path(padded[0])
                details = f"{len(padded)}, such as {example}, are not read; rename them to <i>{example.suffix}"
                yield "zero-padded names", folder, f"{details}, {example} to {int(example.stem)}{example.suffix}"
            elif part == "color" and not self.frames:
                names = ", ".join(f"<i>{suffix}" for suffix in suffixes)
                yield "no colour images", folder, f"it must hold frames named {names}"


def _read_numbers(path: Path, sizes: tuple[int, ...]) -> np.ndarray:
    try:
        words = read_text(path).split()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist. {CHECK}") from error
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers; got {error}.") from error
    if values.size not in sizes:
        raise ValueError(f"{path} must hold {' or '.join(map(str, sizes))} numbers; got {values.size}.")
    return values
