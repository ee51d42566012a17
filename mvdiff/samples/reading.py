"""Read sample folders, in this package's layout or that of the 2023 release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.files.paths import expanded, own_name
from mvdiff.files.text import read_json, read_lines
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.samples.depths import read_depth
from mvdiff.samples.folders import DEPTH_NAME, GIVEN_NAME, PANORAMA_NAME, PROMPT_NAME, is_complete, numbered
from mvdiff.samples.pixels import read_given_png, read_png
from mvdiff.samples.record import RECORD_NAME, SampleRecord


@dataclass(frozen=True)
class Sample:
    """A sample folder opened for reading; images are read on demand.

    Attributes:
        folder: The sample's folder.
        record: Content of `sample.json`.
        view_paths: Files of the V views, in order.
        natural_paths: Files of the V ground-truth views beside them (2023 release), or empty.
    """

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
        """True if any view has a depth map."""
        return any((self.folder / DEPTH_NAME / path.name).exists() for path in self.view_paths)

    def images_uint8(self) -> Tensor:
        """Read the views as uint8 [V, 3, H, W].

        Raises:
            ValueError: An image cannot be decoded, or sizes differ.
        """
        return _read_views(self.view_paths)

    def natural_uint8(self) -> Tensor:
        """Read the ground-truth views beside the generated ones (2023 release) as uint8 [V, 3, H, W].

        Raises:
            FileNotFoundError: The folder has none.
        """
        if not self.natural_paths:
            raise FileNotFoundError(f"{self.folder} must hold <i>_natural.png for every view; got none.")
        return _read_views(self.natural_paths)

    def panorama_uint8(self) -> Tensor | None:
        """Read the panorama as uint8 [3, H, W]; None if the folder has none."""
        path = self.folder / PANORAMA_NAME
        return read_png(path) if path.exists() else None

    def depths(self) -> Tensor | None:
        """Read the depth maps as float32 [V, H, W] in metres, 0 where unknown; None if the folder has none.

        Raises:
            FileNotFoundError: Only some views have a depth map.
            ValueError: A map cannot be read, or sizes differ.
        """
        if not self.with_depths:
            return None
        paths = tuple(self.folder / DEPTH_NAME / path.name for path in self.view_paths)
        _require(paths)
        return _stacked(paths, [read_depth(path) for path in paths])

    def given(self) -> tuple[Tensor, Tensor] | None:
        """Read the given parts of the views: uint8 [V, 3, H, W] and float [V, 1, H, W] `known`; None if there are none.

        Raises:
            FileNotFoundError: Only some views have a file.
            ValueError: A file cannot be read, or sizes differ.
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
        folder: A folder with `sample.json`, or one in the layout of the 2023 release (`<i>.png`, `prompt.txt`).
        rig: Cameras for a folder without `sample.json`. None: the paper's ring of 8 (FoV 90, 45 degrees apart) at the
            size of the images. Ignored if the folder has a `sample.json`.

    Raises:
        FileNotFoundError: The folder is incomplete, or a view is missing.
        ValueError: `sample.json` is unreadable or inconsistent, or the number of views or prompts does not match.
    """
    folder = expanded(folder)
    if is_complete(folder):
        record = _read_record(folder / RECORD_NAME)
        paths = tuple(folder / f"{i}.png" for i in range(len(record.prompts)))
        _require(paths)
        return Sample(folder, record, paths)
    paths = tuple(numbered(folder, ".png"))
    if not paths or not (folder / PROMPT_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} must hold sample.json, or 0.png and prompt.txt; the sample is incomplete. Generate it again."
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
    record = SampleRecord(own_name(folder), _read_prompts(folder / PROMPT_NAME, len(paths)), rig=rig.to_dict())
    return Sample(folder, record, paths, natural)


def _read_record(path: Path) -> SampleRecord:
    try:
        values = read_json(path)
    except OSError as error:
        raise ValueError(f"sample.json must be readable JSON; got {error}, in {path}.") from error
    return SampleRecord.from_dict(values, where=str(path))


def _read_prompts(path: Path, num_views: int) -> list[str]:
    lines = [line for line in read_lines(path) if line]
    if len(lines) == 1:
        return lines * num_views
    if len(lines) != num_views:
        raise ValueError(f"prompt.txt must have one line, or one per view ({num_views}); got {len(lines)}, in {path}.")
    return lines


def _require(paths: Sequence[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{paths[0].parent} must hold every view; {', '.join(missing)} missing. Generate the sample again."
        )


def _read_views(paths: Sequence[Path]) -> Tensor:
    return _stacked(paths, [read_png(path) for path in paths])


def _stacked(paths: Sequence[Path], views: Sequence[Tensor]) -> Tensor:
    for path, view in zip(paths, views, strict=True):
        if view.shape != views[0].shape:
            raise ValueError(
                f"views of a sample must have one size; got {list(views[0].shape[-2:])} and "
                f"{list(view.shape[-2:])}, in {path}."
            )
    return torch.stack(list(views))
