"""Recordings of shards: frames with depth and pose, read by index."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.recordings import Kind, MissingCaption, RecordingSource
from mvdiff.data.shards.reading import Recent, ShardSet, ShardSplit
from mvdiff.files.arrays import read_npy
from mvdiff.files.images import read_depth, read_image_uint8
from mvdiff.files.stored import StoredFile
from mvdiff.files.text import parse_json
from mvdiff.settings import ShardSettings

_CAMERAS = 4096  # frames whose cameras and captions a process keeps


@dataclass(frozen=True, kw_only=True)
class SceneRecord:
    """Description of a recording as a whole in the shards of a split.

    Attributes:
        name: Name of the recording in its data set.
        first: Index in the split of its first sample; one sample is one frame, in the order of their numbers.
        frames: Numbers of the frames with colour, depth and pose.
        valid_frames: Numbers of the usable ones, see `RecordingSource.valid_frames`.
        key_frames: Numbers of the key frames; None: they were not chosen.
        captioned: Numbers of the frames with a caption, with or without a picture.
        depth_size: Height and width of the depth images.
        depth_units_per_metre: Value in depth images that stands for one metre.
        stored_axes: See `RecordingSource.stored_axes`.
    """

    name: str
    first: int
    frames: list[int]
    valid_frames: list[int]
    key_frames: list[int] | None
    captioned: list[int]
    depth_size: list[int]
    depth_units_per_metre: float
    stored_axes: str

    @cached_property
    def stored(self) -> list[int]:
        """Numbers of all frames of which there is a sample, ascending."""
        return sorted({*self.frames, *self.captioned})


def scenes_file(split: str) -> str:
    """Return the name of the file that holds the records of a split."""
    return f"{split}.scenes.json"


def scenes_json(records: Iterable[SceneRecord]) -> bytes:
    """Return the content of that file."""
    return (json.dumps([asdict(record) for record in records], ensure_ascii=False) + "\n").encode()


def shard_scenes(
    root: str | Path,
    split: str,
    settings: ShardSettings | None = None,
    missing_caption: MissingCaption = "error",
) -> list[ShardRecording]:
    """Open the recordings of a split of shards.

    Raises:
        FileNotFoundError: There are no shards, or not of this split.
        OSError: A file of the set is damaged.
        ValueError: The shards hold something else.
    """
    shard_set = ShardSet(root, settings)
    if shard_set.manifest.kind != "recordings":
        raise ValueError(f"{root} must hold shards of recordings; got {shard_set.manifest.kind}.")
    samples, name = shard_set.split(split), scenes_file(split)
    where = shard_set.store.place(name)
    try:
        records = [SceneRecord(**values) for values in parse_json(shard_set.file(name).decode(), where)]
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where} must hold records of scenes ({error}). Write the shards again.") from error
    cameras: Recent[Any] = Recent(_CAMERAS)
    place = Path(str(shard_set.store.root)) / split
    return [ShardRecording(samples, record, cameras, place / record.name, missing_caption) for record in records]


class ShardRecording(RecordingSource):
    """One recording of a set of shards; frame numbers are those of its source.

    Args:
        samples: Samples of the split, one per frame.
        record: What is known of the recording as a whole.
        recent: Keeps cameras and captions of frames.
        path: Name of the recording in errors.
        missing_caption: See `RecordingSource`.
    """

    layout = "shards"
    parts = ()
    remedy = "Write the shards again."

    def __init__(
        self,
        samples: ShardSplit,
        record: SceneRecord,
        recent: Recent[Any],
        path: Path,
        missing_caption: MissingCaption = "error",
    ) -> None:
        self.samples = samples
        self.record = record
        self.path = path
        self.name = record.name
        self.on_broken = "error"
        self.missing_caption = missing_caption
        self.unusable: Counter[str] = Counter()
        self.depth_units_per_metre = record.depth_units_per_metre
        self.stored_axes = record.stored_axes
        self._recent = recent
        self._captioned = set(record.captioned)

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames with colour, depth and pose."""
        return self.record.frames

    @property
    def valid_frames(self) -> list[int]:
        """Numbers of the usable frames, ascending."""
        return self.record.valid_frames

    @property
    def key_frames(self) -> list[int]:
        """Numbers of the usable key frames, ascending.

        Raises:
            FileNotFoundError: They were not chosen before the shards were written.
        """
        if self.record.key_frames is None:
            raise FileNotFoundError(
                f"{self.path} has no key frames. Run `mvdiff data keyframes` on its data set, and write shards again."
            )
        return self.record.key_frames

    @property
    def depth_size(self) -> tuple[int, int]:
        """(height, width) of the depth images."""
        height, width = self.record.depth_size
        return height, width

    def _index(self, frame: int) -> int:
        stored = self.record.stored
        position = bisect_left(stored, frame)
        if position == len(stored) or stored[position] != frame:
            raise FileNotFoundError(f"{self.path} must hold frame {frame}; its shards do not.")
        return self.record.first + position

    def file(self, kind: Kind, frame: int) -> Path:
        """Return where a part of a frame lies, for errors: in which shard, and its name there."""
        return Path(self.samples.place(self._index(frame), "json" if kind in ("pose", "intrinsics") else kind))

    def caption_file(self, frame: int) -> Path:
        """Return where the caption of a frame lies, or would lie, for errors."""
        return self.path / f"{frame}.txt"

    def problem(self, frame: int) -> tuple[str, str] | None:
        """Return None for a frame of the shards, which was whole when they were written."""
        return None if frame in self.frames else ("no color", f"{self.path} holds no frame {frame}")

    def load_image(self, frame: int) -> Tensor:
        """Return the colour image [3, H, W], uint8, as stored."""
        return read_image_uint8(self._picture(frame, "color."), oriented=False)

    def load_depths(self, frame: int) -> Tensor:
        """Return z-depth [H, W], float32 metres, 0 where unknown, at its stored size."""
        file = self._picture(frame, "depth.")
        if file.name.endswith(".npy"):
            return torch.from_numpy(read_npy(file))
        return read_depth(file, self.depth_units_per_metre)

    def _picture(self, frame: int, start: str) -> StoredFile:
        index = self._index(frame)
        members = self.samples.sample(index)
        self._keep_camera(index, members)
        name = next((name for name in members if name.startswith(start)), None)
        if name is None:
            raise FileNotFoundError(f"{self.samples.place(index)} must have {start}*; it has {', '.join(members)}.")
        return StoredFile(self.samples.place(index, name), members[name])

    def load_intrinsics(self, frame: int) -> Tensor:
        """Return K [3, 3], float64, in pixels of the depth images."""
        return torch.tensor(self._camera(frame)["K"], dtype=torch.float64)

    def load_pose(self, frame: int) -> np.ndarray:
        """Return the pose [4, 4], float64, world-from-camera in OpenCV axes, metres."""
        return np.array(self._camera(frame)["pose"], dtype=np.float64)

    def _camera(self, frame: int) -> dict[str, Any]:
        index = self._index(frame)
        return self._keep_camera(index, None)

    def _keep_camera(self, index: int, members: dict[str, bytes] | None) -> dict[str, Any]:
        """Return a frame's camera; keep it, and the caption if its members were read."""

        def read() -> dict[str, Any]:
            content = (members or self.samples.sample(index, ("json",)))["json"]
            return parse_json(content.decode(), self.samples.place(index, "json"))

        if members is not None and "txt" in members:
            self._recent.fetch((index, "txt"), lambda: members["txt"].decode())
        return self._recent.fetch(index, read)

    @property
    def has_captions(self) -> bool:
        """True if any frame has a caption."""
        return bool(self._captioned)

    def without_caption(self, frames: Iterable[int]) -> list[int]:
        """Return the frames without a caption."""
        return [frame for frame in frames if frame not in self._captioned]

    def prompt(self, frame: int) -> str:
        """Return the prompt of a frame; see `RecordingSource.prompt`."""
        if frame not in self._captioned and self.missing_caption == "nearest" and self._captioned:
            frame = min(self.record.captioned, key=lambda other: (abs(other - frame), other))
        if frame in self._captioned:
            index = self._index(frame)
            return self._recent.fetch((index, "txt"), partial(self._caption, index))
        if self.missing_caption == "empty":
            return ""
        raise FileNotFoundError(f"{self.path} must hold a caption of frame {frame}; it does not.")

    def _caption(self, index: int) -> str:
        return self.samples.sample(index, ("txt",))["txt"].decode()
