"""Make shards of a data set in any layout: `mvdiff data shard`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.layouts import Source, named_scenes, open_recording
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import OnBroken, PanoramaSource
from mvdiff.data.prepare.layout import DataSet, find_layouts
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.shards.panorama_content import PanoramaFiles
from mvdiff.data.shards.plan import Content
from mvdiff.data.shards.recording_content import RecordingFiles
from mvdiff.files.paths import existing, expanded, kind_of, own_name

SPLITS = ("train", "test")
_READERS = {"matterport3d": Matterport3DPanoramas, "equirectangular": EquirectangularPanoramas}
Progress = Callable[[int, int], None]
"""Called with (recordings opened, total)."""
_log = logging.getLogger(__name__)


class WrongKind(ValueError):
    """A setting of panoramas was given for recordings."""


def image_content(
    root: str | Path,
    source: Source | None = None,
    on_broken: OnBroken = "error",
    max_pixels: int | None = None,
    progress: Progress | None = None,
) -> Content:
    """Return the files of a data set as the content of shards.

    Args:
        root: Folder of panoramas or of recordings.
        source: Reader of the data set; None: its layout is detected.
        on_broken: "error" stops at incomplete panoramas and recordings; "skip" leaves them out and logs their number.
        max_pixels: Largest width x height of a panorama's images; None: that of its reader.
        progress: Called after each recording of a split that was opened.

    Raises:
        FileNotFoundError: The folder or a file does not exist, or the data set has no split.
        ValueError: The folder has no known layout, or several, or a file is broken.
        WrongKind: `max_pixels` is given for recordings.
    """
    data_set = _only_data_set(root, source)
    about = {"name": own_name(data_set.root), "layout": data_set.layout}
    if data_set.scenes:
        if max_pixels is not None:
            raise WrongKind(f"max_pixels is for panoramas; got {root}, which holds recordings.")
        return RecordingFiles(recordings_by_split(data_set, source, on_broken, progress), about)
    how = {"on_broken": on_broken} | ({} if max_pixels is None else {"max_pixels": max_pixels})
    return PanoramaFiles(panoramas_by_split(data_set, source, **how), about)


def panoramas_by_split(data_set: DataSet, source: Source | None, **how: Any) -> dict[str, PanoramaSource]:
    """Open the splits of panoramas that exist.

    Raises:
        FileNotFoundError: None exists, or a file of one does not.
    """
    reader = source or Source(_READERS[data_set.layout])
    return {split: reader(data_set.root, split, **how) for split in listed_splits(data_set.root) or SPLITS}


def listed_splits(root: Path) -> list[str]:
    """Return the splits of panoramas whose list exists; none for a user's own layout without such lists."""
    lists = [existing(root / f"{split}{ending}") for split in SPLITS for ending in (".npy", ".txt")]
    return [path.stem for path in lists if kind_of(path) == "file"]


def recordings_by_split(
    data_set: DataSet, source: Source | None, on_broken: OnBroken = "error", progress: Progress | None = None
) -> dict[str, list[RecordingSource]]:
    """Open the recordings of each split that exists, and read their lists of frames.

    Raises:
        FileNotFoundError: No split exists, or a file of a recording does not.
        ValueError: A recording is broken.
    """
    splits = [split for split in SPLITS if _has_split(data_set.root, split)]
    if not splits:
        raise FileNotFoundError(
            "SOURCE must have recordings in train/ and test/, or train.txt and test.txt (`mvdiff data split`); got "
            f"{data_set.root}, which has neither."
        )
    how = source, on_broken, progress
    return {split: _open_all(named_scenes(data_set.root, split, source), *how) for split in splits}


def _has_split(root: Path, split: str) -> bool:
    return kind_of(root / split) == "folder" or kind_of(existing(root / f"{split}.txt")) == "file"


def _open_all(
    paths: Mapping[str, Path], source: Source | None, on_broken: OnBroken, progress: Progress | None
) -> list[RecordingSource]:
    scenes, broken = [], []
    for done, (name, path) in enumerate(paths.items(), start=1):
        try:
            scene = open_recording(path, source, on_broken=on_broken)
            scene.name = name
            scene.intrinsics(*scene.depth_size)
            if not scene.valid_frames:
                raise ValueError(f"{path} must have usable frames; got {dict(scene.unusable)}.")
        except (FileNotFoundError, ValueError) as error:
            if on_broken == "error":
                raise
            broken.append(error)
        else:
            scenes.append(scene)
        if progress:
            progress(done, len(paths))
    if broken:
        _log.warning("%d of %d scenes are left out, the first: %s", len(broken), len(paths), broken[0])
    if not scenes:
        raise broken[0]
    return scenes


def _only_data_set(root: str | Path, source: Source | None) -> DataSet:
    if source is not None and not source.reads_recordings:
        return DataSet(source.cls.__name__, expanded(root))
    data_sets = find_layouts(root, source)
    if len(data_sets) > 1:
        raise ValueError(
            f"SOURCE must hold panoramas or recordings; got {root}, which holds both. Name "
            f"{' or '.join(str(data_set.root) for data_set in data_sets)}."
        )
    return data_sets[0]
