"""Read sample folders, ours and those in upstream's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.samples.depths import read_depth
from mvdiff.samples.folders import DEPTH_NAME, GIVEN_NAME, PANORAMA_NAME, PROMPT_NAME, is_complete, numbered
from mvdiff.samples.pixels import read_given_png, read_png
from mvdiff.samples.record import RECORD_NAME, SampleRecord


@dataclass(frozen=True)
class Sample:
    """A sample folder opened for reading; images are read when asked for."""

    folder: Path
    record: SampleRecord
    view_paths: tuple[Path, ...]
    natural_paths: tuple[Path, ...] = ()

    @property
    def num_views(self) -> int:
        """Number of views."""
        return len(self.view_paths)

    @property
    def with_depths(self) -> bool:
        """True where some view has a depth map."""
        return any((self.folder / DEPTH_NAME / path.name).exists() for path in self.view_paths)

    def images_uint8(self) -> Tensor:
        """Read the views: uint8 [V, 3, H, W]."""
        return _read_views(self.view_paths)

    def natural_uint8(self) -> Tensor:
        """Read upstream's ground-truth views beside the generated ones: uint8 [V, 3, H, W]."""
        if not self.natural_paths:
            raise FileNotFoundError(f"{self.folder} must hold <i>_natural.png for every view; got none.")
        return _read_views(self.natural_paths)

    def panorama_uint8(self) -> Tensor | None:
        """Read the panorama: uint8 [3, H, W], or None where the folder has none."""
        path = self.folder / PANORAMA_NAME
        return read_png(path) if path.exists() else None

    def depths(self) -> Tensor | None:
        """Read the depth maps: float32 [V, H, W] metres, 0 = none; or None where the folder has none.

        Raises:
            FileNotFoundError: Some views have a depth map and others have none.
            ValueError: One cannot be read or is of another size than the others.
        """
        if not self.with_depths:
            return None
        paths = tuple(self.folder / DEPTH_NAME / path.name for path in self.view_paths)
        _require(paths)
        return _stacked(paths, [read_depth(path) for path in paths])

    def given(self) -> tuple[Tensor, Tensor] | None:
        """Read the given parts of the views: uint8 [V, 3, H, W] and [V, 1, H, W] float `known`; None without any.

        Errors are those of `depths`.
        """
        paths = tuple(self.folder / GIVEN_NAME / path.name for path in self.view_paths)
        if not any(path.exists() for path in paths):
            return None
        _require(paths)
        views = [read_given_png(path) for path in paths]
        return tuple(_stacked(paths, part) for part in zip(*views, strict=True))


def read_sample(folder: str | Path, rig: Rig | None = None) -> Sample:
    """Open a sample folder of either layout.

    Args:
        folder: A folder with `sample.json`, or one in upstream's layout (`<i>.png`, `prompt.txt`).
        rig: Cameras of an upstream folder; default: the paper's ring of 8 (FoV 90, 45 degrees apart) at the images' own
            size. A folder with `sample.json` brings its own cameras and ignores it.

    Raises:
        FileNotFoundError: The folder is incomplete, or a view is missing.
        ValueError: `sample.json` cannot be read or contradicts itself, or counts do not fit; the text names the file.
    """
    folder = Path(folder)
    if is_complete(folder):
        record = _read_record(folder / RECORD_NAME)
        paths = tuple(folder / f"{i}.png" for i in range(len(record.prompts)))
        _require(paths)
        return Sample(folder, record, paths)
    paths = tuple(numbered(folder, ".png"))
    if not paths or not (folder / PROMPT_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} must hold sample.json, or 0.png and prompt.txt; got an incomplete sample. Generate it again."
        )
    paths = tuple(folder / f"{i}.png" for i in range(len(paths)))
    _require(paths)
    if rig is None:
        height, width = read_png(paths[0]).shape[-2:]
        rig = RingRig(num_views=8, fov_deg=90.0, height=height, width=width)
    if rig.num_views != len(paths):
        raise ValueError(f"rig must have as many views as the folder ({len(paths)}); got {rig.num_views}, in {folder}.")
    natural = tuple(folder / f"{i}_natural.png" for i in range(len(paths)))
    natural = natural if any(path.exists() for path in natural) else ()
    _require(natural)
    record = SampleRecord(folder.name, _read_prompts(folder / PROMPT_NAME, len(paths)), rig=rig.to_dict())
    return Sample(folder, record, paths, natural)


def _read_record(path: Path) -> SampleRecord:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"sample.json must be readable JSON; got {error}, in {path}.") from error
    return SampleRecord.from_dict(values, where=str(path))


def _read_prompts(path: Path, num_views: int) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt.txt must be UTF-8 text; got {error}, in {path}.") from error
    if len(lines) == 1:
        return lines * num_views
    if len(lines) != num_views:
        raise ValueError(f"prompt.txt must have one line, or one per view ({num_views}); got {len(lines)}, in {path}.")
    return lines


def _require(paths: Sequence[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{paths[0].parent} must hold every view; {missing} missing. Generate the sample again."
        )


def _read_views(paths: Sequence[Path]) -> Tensor:
    return _stacked(paths, [read_png(path) for path in paths])


def _stacked(paths: Sequence[Path], views: Sequence[Tensor]) -> Tensor:
    for path, view in zip(paths, views, strict=True):
        if view.shape != views[0].shape:
            raise ValueError(
                f"views of a sample must have one size; got {list(view.shape[-2:])} beside "
                f"{list(views[0].shape[-2:])}, in {path}."
            )
    return torch.stack(list(views))
