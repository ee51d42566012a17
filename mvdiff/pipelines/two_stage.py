"""Sequences of any length: key frames first, then the frames between two of them (the paper's section 4).

Both stages are calls of `MultiViewPipeline.generate`, of at most `num_views` frames each:

1. Key frames are generated in windows. The first frames of a window are the last of the window before, given, so that
   the sequence goes on as it began (`window_overlap`; own derivation: the paper generates 12 key frames and no more).
2. The frames between two consecutive key frames are interpolated, over the whole sequence, with these two given. More
   than `num_views` - 2 of them are parted evenly in the order of time, and each part is given both key frames: parts
   agree with the key frames and so with each other.

What is given was generated before: an 8-bit picture that is encoded again and stays as it was, since of a call only the
frames that were not given are kept (as upstream). Frames come out as soon as they are made; all that is remembered are
the last key frames, so memory does not grow with the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.sequences import Frame, FrameSequence
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sampling import NO_CALLBACK, PAPER_SAMPLING, StepCallback
from mvdiff.samples import from_uint8, to_uint8
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS

NUM_VIEWS = 12
"""Frames at once (the paper's)."""


class Part(NamedTuple):
    """The frames of one call of the model.

    Attributes:
        positions: Positions in the sequence, ascending.
        given: Those of them that are given; the others are generated.
    """

    positions: list[int]
    given: list[int]


@dataclass(frozen=True)
class GeneratedFrame:
    """One frame of a sequence: its position, depth and camera (and the real picture), and the generated picture."""

    position: int
    frame: Frame
    image_uint8: Tensor  # [H, W, 3]


def generate_sequence(
    pipeline: MultiViewPipeline,
    sequence: FrameSequence,
    *,
    sample_id: str | None = None,
    prompt: str | None = None,
    seed: int = 0,
    num_views: int = NUM_VIEWS,
    window_overlap: int = 1,
    batch_size: int = 1,
    sampling: Sampling = PAPER_SAMPLING,
    controls: Controls = NO_CONTROLS,
    prompt_prefix: str | None = None,
    callback: StepCallback = NO_CALLBACK,
) -> Iterator[GeneratedFrame]:
    """Generate every frame of a sequence, each once; a frame between two key frames comes after these.

    Args:
        pipeline: What generates.
        sequence: Frames and which of them are key frames: `key_sequence`, `interval_sequence` (key frames only) or
            `full_sequence`, see `mvdiff.data.sequences`.
        sample_id: Key of the noise, with `seed` and a frame's number; default the scene's name.
        prompt: One text for all frames in place of their captions.
        seed: Seed of all frames.
        num_views: Frames at once, given ones included.
        window_overlap: Key frames of a window that are given by the window before it; 0 makes windows that do not know
            of each other.
        batch_size: Parts between key frames that are interpolated at once; images do not depend on it, beyond float
            rounding.
        sampling: Steps, guidance, eta, and one negative prompt for the whole sequence.
        controls: What to switch off.
        prompt_prefix: Default the model's.
        callback: What is called after each step of each part.

    Returns:
        The frames as they are made; nothing is generated before the first is asked for.

    Raises:
        ValueError: Settings are out of range, the sequence does not begin and end with a key frame, or the model takes
            no given frames where some are needed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    rounds = plan(sequence.key_positions, len(sequence), num_views, window_overlap)
    if not pipeline.takes_images and any(part.given for parts in rounds for part in parts):
        raise ValueError(
            "model must take given frames (image_condition) to generate frames between key frames, or more than "
            f"num_views ({num_views}) key frames with window_overlap; got a model that does not. Generate key frames "
            "with window_overlap 0, or train an adapter with image_condition."
        )
    if not isinstance(sampling.negative_prompt, str | None):
        raise ValueError(
            "negative_prompt must be one text for the whole sequence, which is generated in parts; got "
            f"{str(sampling.negative_prompt)[:200]}."
        )

    options = {"seed": seed, "controls": controls, "prompt_prefix": prompt_prefix, "callback": callback}
    calls = [parts[start : start + batch_size] for parts in rounds for start in range(0, len(parts), batch_size)]

    def generated() -> Iterator[GeneratedFrame]:
        keys, pictures = set(sequence.key_positions), {}
        for parts in calls:
            read = [[sequence.frame(position) for position in part.positions] for part in parts]
            prompts = [[sequence.prompt(p) if prompt is None else prompt for p in part.positions] for part in parts]
            rows = zip(parts, read, prompts, strict=True)
            batch = MultiViewBatch.collate([_sample(*row, pictures, sample_id or sequence.name) for row in rows])
            images = pipeline.generate(batch, sampling, **options).images
            for part, frames, views in zip(parts, read, to_uint8(images.movedim(-3, -1)), strict=True):
                for position, frame, image in zip(part.positions, frames, views, strict=False):  # padding is left out
                    if position in part.given:
                        continue
                    if position in keys:
                        pictures[position] = image
                    yield GeneratedFrame(position, frame, image)
            for position in sorted(pictures)[: -num_views - 1]:
                del pictures[position]

    return generated()


def plan(key_positions: Sequence[int], num_frames: int, num_views: int, window_overlap: int) -> list[list[Part]]:
    """Part a sequence into calls of the model: rounds, whose parts need only what earlier rounds made.

    Args:
        key_positions: Positions of the key frames, ascending, the first and the last frame among them.
        num_frames: Length of the sequence.
        num_views: Most frames of a part.
        window_overlap: Given key frames of a window but the first.

    Raises:
        ValueError: Settings are out of range, or the sequence does not begin and end with a key frame.

    Example:
        >>> for parts in plan([0, 3, 4], 5, num_views=3, window_overlap=1):
        ...     print([part.positions for part in parts])
        [[0, 3, 4]]
        [[0, 1, 3], [0, 2, 3]]
    """
    if not key_positions or key_positions[0] != 0 or key_positions[-1] != num_frames - 1:
        raise ValueError(
            f"a sequence must begin and end with a key frame; got key frames {list(key_positions)[:20]} of "
            f"{num_frames} frames."
        )
    between = len(key_positions) < num_frames
    if num_views < (3 if between else 1):
        raise ValueError(
            f"num_views must be at least {3 if between else 1}{', two given frames and one between' * between}; got "
            f"{num_views}. The paper has {NUM_VIEWS}."
        )
    if not 0 <= window_overlap < num_views:
        raise ValueError(
            f"window_overlap must lie between 0 and num_views - 1 = {num_views - 1}; got {window_overlap}."
        )
    rounds, last = [], None
    for window in _windows(list(key_positions), num_views, window_overlap):
        rounds.append([window])
        new = [position for position in window.positions if position not in window.given]
        pairs = pairwise(new if last is None else [last, *new])
        parts = [part for first, second in pairs for part in _between(first, second, num_views)]
        rounds += [parts] if parts else []
        last = new[-1]
    return rounds


def _windows(keys: list[int], num_views: int, overlap: int) -> list[Part]:
    """Part key frames into as few windows as possible, about equally long, each beginning with the end of the last."""
    count = max(1, -(-(len(keys) - overlap) // (num_views - overlap)))
    windows, start = [], 0
    for part in np.array_split(range(len(keys) + (count - 1) * overlap), count):
        window = keys[start : start + len(part)]
        windows.append(Part(window, window[:overlap] if start else []))
        start += len(part) - overlap
    return windows


def _between(first: int, last: int, num_views: int) -> list[Part]:
    """Part the frames between two positions evenly, in the order of time."""
    count = last - first - 1
    chunks = np.array_split(range(first + 1, last), -(-count // (num_views - 2))) if count else []
    return [Part([first, *chunk.tolist(), last], [first, last]) for chunk in chunks]


def first_frames(sequence: FrameSequence, num_frames: int) -> FrameSequence:
    """Return the first frames of a sequence, up to the last key frame among them."""
    if num_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {num_frames}.")
    kept = set(sequence.frame_ids[:num_frames])
    keys = [frame for frame in sequence.key_ids if frame in kept]
    frames = [frame for frame in sequence.frame_ids if frame <= keys[-1]]
    return FrameSequence(sequence.scene, frames, keys, sequence.height, sequence.width)


def _sample(
    part: Part, frames: Sequence[Frame], prompts: list[str], pictures: Mapping[int, Tensor], sample_id: str
) -> dict[str, Any]:
    """Join the frames of a part as `MultiViewBatch.collate` takes them; only what was generated is given."""
    depths = torch.stack([frame.depths for frame in frames])
    images, known = (torch.zeros(len(frames), channels, *depths.shape[1:]) for channels in (3, 1))
    for view, position in enumerate(part.positions):
        if position in part.given:
            images[view] = from_uint8(pictures[position].movedim(-1, 0))
            known[view] = 1
    cameras = {name: torch.stack([getattr(frame, name) for frame in frames]).float() for name in ("K", "R", "t")}
    return {
        "images": images,
        "known": known,
        "depths": depths,
        **cameras,
        "prompts": prompts,
        "sample_id": sample_id,
        "sample_index": 0,
        "epoch": 0,
        "view_names": [frame.number for frame in frames],
    }
