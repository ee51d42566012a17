"""Scenes -> samples of the depth task: key frames, interpolation, fixed intervals, single frames, whole sequences.

A sample of a *window* mode (keyframes, interval) is `num_views` consecutive frames of a list; one of interpolation is
two consecutive key frames, both known, with frames between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from mvdiff.batch import pad_views
from mvdiff.data.counts import check_counts
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.sequences import MAX_BETWEEN, FrameSequence, drawn_between, frames_between, full_sequence
from mvdiff.keyed import keyed_generator

Mode = Literal["keyframes", "interpolation", "interval", "mixed", "frames", "full"]
MODES = ("keyframes", "interpolation", "interval", "mixed", "frames", "full")
TrainSamples = Literal["every_frame", "windows"]
TRAIN_SAMPLES = ("every_frame", "windows")
MAX_VIEWS = 150
"""Scenes with more frames than this are left out where `num_views` is None (2023 release)."""


class Slot(NamedTuple):
    """One sample of an epoch: the scene's number, its mode, and its start in the list of frames."""

    scene: int
    mode: str
    start: int


class Slots(Sequence[Slot]):
    """The samples of an epoch, as columns of numbers: an epoch of single frames has millions."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        columns = [("scene", np.int32), ("mode", np.int8), ("start", np.int32)]
        self._rows = np.fromiter(((scene, MODES.index(mode), start) for scene, mode, start in slots), dtype=columns)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Slot:
        scene, mode, start = self._rows[index].item()
        return Slot(scene, MODES[mode], start)


class FrameDataset(Dataset):
    """Samples of scenes, keyed by `(epoch, index)` (an int means epoch 0).

    In evaluation windows start at frame 0, `num_views`, 2 `num_views`, ... of their list, the last one shifted back to
    end with it, and interpolation takes every pair (paper's protocol); "mixed" takes the pair nearest each window,
    once. Training draws, as a function of (seed, epoch, index), the starts, the first frame of an interval, and the
    frames between two key frames; "mixed" alternates between its two kinds. Samples of scenes with
    fewer than `num_views` frames are padded.

    Args:
        scenes: The scenes.
        mode: This and the settings up to `full_interval`: see `RecordingDataModule`. "full" takes 1 MB per frame of
            192x256 and is not for training.
        seed: Seed of everything random.
        training: Draw the starts.
        indices: The samples to use; by default all.

    Attributes:
        left_out: Scenes that gave no sample, by reason.
        missing_captions: Frames without a caption among those that samples may show.

    Raises:
        FileNotFoundError: A scene is not whole; see `RecordingSource`.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        scenes: Sequence[RecordingSource],
        mode: Mode = "keyframes",
        height: int = 192,
        width: int = 256,
        num_views: int | None = 12,
        interval: int = 20,
        max_between: int = MAX_BETWEEN,
        min_frames: int | None = None,
        train_samples: TrainSamples = "every_frame",
        draw_between: bool = True,
        full_interval: int | None = None,
        seed: int = 0,
        training: bool = False,
        indices: Sequence[int] | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
        if mode == "full" and training:
            raise ValueError('mode must give short samples in training; got "full". Set eval_mode to it instead.')
        if train_samples not in TRAIN_SAMPLES:
            raise ValueError(f"train_samples must be one of {', '.join(TRAIN_SAMPLES)}; got {train_samples!r}.")
        check_counts(
            height=height,
            width=width,
            num_views=num_views,
            interval=interval,
            max_between=max_between,
            min_frames=min_frames,
            full_interval=full_interval,
        )
        self.scenes = scenes
        self.mode = mode
        self.height = height
        self.width = width
        self.num_views = num_views
        self.interval = interval
        self.max_between = max_between
        self.full_interval = full_interval
        self.min_frames = min(10, num_views or 10) if min_frames is None else min_frames
        self.every_frame = training and train_samples == "every_frame"
        self.draw_between = training and draw_between
        self.seed = seed
        self.training = training
        self.left_out: Counter[str] = Counter()
        self.missing_captions = 0
        self._pairs: list[list[int]] = []
        self.slots = Slots(slot for number, scene in enumerate(scenes) for slot in self._slots(number, scene))
        self.indices = range(len(self.slots)) if indices is None else indices

    def _slots(self, number: int, scene: RecordingSource) -> list[Slot]:
        """List the samples of a scene; count a scene without samples in `left_out`."""
        frames = self._frames(scene)
        pairs = []
        if self.mode in ("interpolation", "mixed"):
            pairs = [i for i in range(len(frames) - 1) if frames_between(scene.valid_frames, *frames[i : i + 2])]
        self._pairs.append(pairs)
        if reason := self._reason_to_leave_out(frames, pairs):
            self.left_out[reason] += 1
            return []
        any_frame = pairs or (self.mode == "interval" and self.training)
        self._check_captions(scene, scene.valid_frames if any_frame else self._whole(scene, frames))
        if self.mode == "full":
            return [Slot(number, "full", 0)]
        if self.mode == "interpolation":
            return [Slot(number, "interpolation", start) for start in pairs]
        if self.every_frame and (self.mode == "frames" or self.num_views):
            return [Slot(number, self.mode, start) for start in range(len(frames))]
        if self.mode == "frames":
            return [Slot(number, "frames", start) for start in range(0, len(frames), self.interval)]
        starts = window_starts(len(frames), self.num_views or len(frames))
        if self.mode == "mixed":
            both = [(start, min(pairs, key=lambda pair: abs(pair - start))) for start in starts]
            slots = [Slot(number, m, s) for pair in both for m, s in zip(MODES[:2], pair, strict=True)]
            return slots if self.training else list(dict.fromkeys(slots))  # two windows may have one pair nearest
        return [Slot(number, self.mode, start) for start in starts]

    def _reason_to_leave_out(self, frames: list[int], pairs: list[int]) -> str | None:
        what = "frames at the interval" if self.mode == "interval" else "key frames"
        if self.mode == "frames":
            return None if frames else "no usable frame"
        if len(frames) < self.min_frames:
            return f"fewer than {self.min_frames} {what}"
        if self.mode != "full" and self.num_views is None and len(frames) > MAX_VIEWS:
            return f"more than {MAX_VIEWS} {what}"
        if self.mode in ("interpolation", "mixed") and not pairs:
            return "no frame between its key frames"
        return None

    def _frames(self, scene: RecordingSource, first: int = 0) -> list[int]:
        """List the frames that starts count in: key frames, or usable frames."""
        if self.mode == "frames":
            return scene.valid_frames
        return scene.valid_frames[first :: self.interval] if self.mode == "interval" else scene.key_frames

    def _whole(self, scene: RecordingSource, frames: list[int]) -> list[int]:
        """Add to the key frames those between them in mode full."""
        if self.mode != "full":
            return frames
        return full_sequence(scene, self.height, self.width, interval=self.full_interval).frame_ids

    def _check_captions(self, scene: RecordingSource, frames: Sequence[int]) -> None:
        missing = scene.without_caption(frames)
        self.missing_captions += len(missing)
        if missing and scene.missing_caption == "error":
            raise FileNotFoundError(
                f"{scene.caption_file(missing[0])} must hold a caption; it does not, nor do {len(missing) - 1} more "
                f'of the scene\'s {len(frames)} frames. Set missing_caption to "nearest" (the caption of the nearest '
                f'frame that has one) or "empty", or run `mvdiff data caption {scene.path} --every 1`.'
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample for `MultiViewBatch.collate`.

        Args:
            key: (epoch, index among `indices`), or such an index in epoch 0.

        Returns:
            The sample of `FrameSequence.sample`, padded to `num_views` (interpolation: `max_between` + 2) views, with
            `view_valid`, `sample_id`, `sample_index`, `epoch`.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = self.indices[index]  # among all samples, so that using fewer changes none of them
        slot, frames = self.frames_of(epoch, index)
        scene = self.scenes[slot.scene]
        sequence = FrameSequence(scene, frames, (), self.height, self.width)
        known = (0, len(frames) - 1) if slot.mode == "interpolation" else ()
        sample = sequence.sample(known=known)
        return pad_views(sample, self._most_views(slot.mode) or len(frames)) | {
            "sample_id": self._sample_id(slot, frames),
            "sample_index": index,
            "epoch": epoch,
        }

    def sample_ids(self) -> list[str]:
        """Return the ids of all samples of epoch 0, without reading any."""
        return [self._sample_id(*self.frames_of(0, index)) for index in self.indices]

    def _sample_id(self, slot: Slot, frames: Sequence[int]) -> str:
        return f"{self.scenes[slot.scene].name}_{slot.mode}_{frames[0]}"

    def _most_views(self, mode: str) -> int | None:
        """Number of views that samples are padded to; None: no padding."""
        return {"frames": 1, "interpolation": self.max_between + 2, "full": None}.get(mode, self.num_views)

    def frames_of(self, epoch: int, index: int) -> tuple[Slot, list[int]]:
        """Return a sample's slot (its start drawn in training) and frame numbers, by its index among all samples."""
        slot = self.slots[index]
        if slot.mode == "mixed":
            slot = slot._replace(mode=MODES[(epoch + index) % 2])
        scene = self.scenes[slot.scene]
        generator = keyed_generator("frames", self.seed, epoch, index)

        def draw(choices: Sequence[int], otherwise: int) -> int:
            return choices[int(torch.randint(len(choices), (), generator=generator))] if self.training else otherwise

        first = draw(range(min(self.interval, len(scene.valid_frames))), 0) if slot.mode == "interval" else 0
        frames = self._frames(scene, first)
        start = slot.start
        if slot.mode == "full":
            frames = self._whole(scene, frames)
        elif slot.mode == "frames":
            if not self.every_frame:
                start = draw(range(start, min(start + self.interval, len(frames))), start)
            frames = frames[start : start + 1]
        elif slot.mode == "interpolation":
            if self.mode == "mixed":  # otherwise an epoch has every pair once
                start = draw(self._pairs[slot.scene], start)
            first, last = frames[start : start + 2]
            between = frames_between(scene.valid_frames, first, last, None if self.draw_between else self.max_between)
            if self.draw_between:
                between = drawn_between(between, self.max_between, generator)
            frames = [first, *between, last]
        else:
            size = self.num_views or len(frames)
            start = draw(range(max(1, len(frames) - size + 1)), start)
            frames = frames[start : start + size]
        return slot._replace(start=start), frames


def window_starts(num_frames: int, num_views: int) -> list[int]:
    """Return the start of each window: 0, `num_views`, ..., the last one shifted back to end at the last frame.

    Example:
        >>> window_starts(30, 12), window_starts(24, 12), window_starts(10, 12)
        ([0, 12, 18], [0, 12], [0])
    """
    last = max(0, num_frames - num_views)
    return sorted({min(start, last) for start in range(0, num_frames, num_views)})
