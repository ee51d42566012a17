"""Recordings as the content of shards: one sample per frame, its files byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mvdiff.data.captions import EmptyCaptionError, read_caption
from mvdiff.data.frame_files import PROMPTS, numbers_in
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.shards.plan import Planned, state_of
from mvdiff.data.shards.recordings import SceneRecord, scenes_file, scenes_json


class _Scene(NamedTuple):
    source: RecordingSource
    record: SceneRecord
    captions: dict[int, str]


class RecordingFiles:
    """Colour and depth files, cameras and captions of recordings; see `Content`.

    Usable frames and key frames are stored, and captions of any frame. Colours and depths of a layout that does not
    keep them in files of their own are stored as its reader gives them: PNG, and float32 metres.

    Args:
        scenes: Recordings of each split, with the names that they have in their data set.
        source: What the recordings are, for the manifest.
    """

    kind, what = "recordings", "images"

    def __init__(self, scenes: Mapping[str, Sequence[RecordingSource]], source: dict[str, Any]) -> None:
        self.settings: dict[str, Any] = {}
        self._scenes = {split: _with_records(of_split) for split, of_split in scenes.items()}
        self._frames = {
            split: [(scene, frame) for scene in of_split for frame in scene.record.stored]
            for split, of_split in self._scenes.items()
        }
        self.source = source | {"recordings": {split: len(of_split) for split, of_split in scenes.items()}}

    def counts(self) -> dict[str, int]:
        """Return the number of frames of each split."""
        return {split: len(frames) for split, frames in self._frames.items()}

    def planned(self, split: str, index: int) -> Planned:
        """Plan a frame."""
        return _planned(*self._frames[split][index])

    def members(self, split: str, index: int) -> dict[str, bytes]:
        """Read the files of a frame."""
        scene, frame = self._frames[split][index]
        source, members = scene.source, _texts(scene, frame)
        if frame not in scene.record.frames:
            return members
        if _has_files(source, "load_image"):
            path = source.file("color", frame)
            members[f"color{path.suffix.lower()}"] = path.read_bytes()
        else:
            picture = BytesIO()
            Image.fromarray(source.load_image(frame).permute(1, 2, 0).numpy()).save(picture, "PNG")
            members["color.png"] = picture.getvalue()
        if _has_files(source, "load_depths"):
            members["depth.png"] = source.file("depth", frame).read_bytes()
        else:
            depths = BytesIO()
            np.save(depths, source.load_depths(frame).numpy(), allow_pickle=False)
            members["depth.npy"] = depths.getvalue()
        return members

    def files(self) -> dict[str, bytes]:
        """Return the records of the recordings."""
        return {
            scenes_file(split): scenes_json(scene.record for scene in scenes) for split, scenes in self._scenes.items()
        }


def _with_records(scenes: Sequence[RecordingSource]) -> list[_Scene]:
    found, first = [], 0
    for source in scenes:
        captions = _captions(source)
        key_frames = None
        with suppress(FileNotFoundError):
            key_frames = source.key_frames
        valid = source.valid_frames
        record = SceneRecord(
            name=source.name,
            first=first,
            frames=sorted({*valid, *(key_frames or ())}),
            valid_frames=valid,
            key_frames=key_frames,
            captioned=sorted(captions),
            depth_size=list(source.depth_size),
            depth_units_per_metre=source.depth_units_per_metre,
            stored_axes=source.stored_axes,
        )
        found.append(_Scene(source, record, captions))
        first += len(record.stored)
    return found


def _captions(source: RecordingSource) -> dict[int, str]:
    captions = {}
    for frame in numbers_in(source.path / PROMPTS):
        with suppress(EmptyCaptionError, FileNotFoundError):
            captions[frame] = read_caption(source.caption_file(frame))
    return captions


def _texts(scene: _Scene, frame: int) -> dict[str, bytes]:
    """Return the camera and the caption of a frame, as far as it has them."""
    texts = {}
    if frame in scene.record.frames:
        K, pose = scene.source.load_intrinsics(frame), scene.source.checked_pose(frame)
        camera = {"scene": scene.record.name, "frame": frame, "K": K.tolist(), "pose": pose.tolist()}
        texts["json"] = json.dumps(camera, ensure_ascii=False).encode()
    if frame in scene.captions:
        texts["txt"] = scene.captions[frame].encode()
    return texts


def _planned(scene: _Scene, frame: int) -> Planned:
    """Plan a frame; pictures that are not files count as they are in memory, without compression."""
    source, texts, files = scene.source, _texts(scene, frame), []
    sizes = {name: len(text) for name, text in texts.items()}
    if frame in scene.record.frames:
        height, width = scene.record.depth_size
        for kind, method, channels in (("color", "load_image", 3), ("depth", "load_depths", 4)):
            if _has_files(source, method):
                path = source.file(kind, frame)
                files.append(path)
                sizes[kind] = path.stat().st_size
            else:
                with suppress(FileNotFoundError):  # a layout of other files, which are not seen to change
                    files.append(source.file(kind, frame))
                sizes[kind] = channels * height * width
    return Planned(f"{scene.record.name}/{frame:06d}", sizes, state_of(files, *texts.values()))


def _has_files(source: RecordingSource, method: str) -> bool:
    """Return True if a layout keeps images in files of their own, which the base class reads."""
    return getattr(type(source), method) is getattr(RecordingSource, method)
