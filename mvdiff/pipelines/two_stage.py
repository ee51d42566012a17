"""Sequences of any length: key frames first, then the frames between two of them (the paper's section 4).

Both stages call `MultiViewPipeline.generate` with at most `num_views` frames at a time:

1. Key frames are generated in windows. The first frames of a window are known: they are the last frames of the previous
   window (`window_overlap`), so that the sequence continues consistently (own derivation; the paper generates 12 key
   frames only).
2. The frames between two consecutive key frames are interpolated with these two known. More than `num_views` - 2 frames
   are split evenly in temporal order, and both key frames are known in each part, so that the parts agree with the key
   frames and therefore with each other.

Known frames are 8-bit pictures that an earlier call generated. They are encoded again, and their new renderings are
discarded (as in the 2023 release). Frames are yielded as soon as they are generated; only the last key frames stay in
memory, so it does not grow with the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Frames per call of the model (the paper's)."""


class Part(NamedTuple):
    """The frames of one call of the model.

    Attributes:
        positions: Positions in the sequence, ascending.
        given: Positions of known frames among them; the others are generated.
    """

    positions: list[int]
    given: list[int]


@dataclass(frozen=True)
class GeneratedFrame:
    """One generated frame of a sequence.

    Attributes:
        position: Position in the sequence.
        frame: Depth, camera and real image of the frame.
        image_uint8: [H, W, 3] generated image.
    """

    position: int
    frame: Frame
    image_uint8: Tensor


def generate_sequence(
    pipeline: MultiViewPipeline | None,
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
    generate: Callable[[MultiViewBatch], Tensor] | None = None,
) -> Iterator[GeneratedFrame]:
    """Generate every frame of a sequence once; the frames between two key frames follow after both.

    Args:
        pipeline: Pipeline of a depth model; not used with `generate`.
        sequence: Frames and key frames: `key_sequence`, `interval_sequence` (key frames only) or `full_sequence`, see
            `mvdiff.data.sequences`.
        sample_id: Noise key, together with `seed` and the frame's number; default: the scene's name.
        prompt: One text for all frames, in place of their captions.
        seed: Random seed of all frames.
        num_views: Maximum number of frames per call, known ones included.
        window_overlap: Number of key frames that a window takes over from the previous one; with 0, windows are
            independent.
        batch_size: Parts between key frames to interpolate at once, which changes images by float rounding only.
        sampling: Number of steps, guidance, eta, and one negative prompt for the whole sequence.
        controls: Parts of the model to switch off.
        prompt_prefix: Text put before every prompt; default: the model's.
        callback: Function to call after each step of each part.
        generate: Function that makes the images [B, V, 3, H, W] of a batch of parts, in [-1, 1] on the CPU, in place of
            the pipeline; it decides about guidance, controls, prefix and callback, and takes known frames.

    Returns:
        Iterator over the frames as they are generated; arguments are checked at once, generation starts with the first
        frame.

    Raises:
        ValueError: A setting is out of range, the sequence does not begin and end with a key frame, or the model does
            not take the known frames that the sequence needs.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    rounds = plan(sequence.key_positions, len(sequence), num_views, window_overlap)
    with_known = any(part.given for parts in rounds for part in parts)
    if generate is None and with_known and not pipeline.takes_images:
        raise ValueError(
            "model must have image_condition to generate frames between key frames, or more than num_views "
            f"({num_views}) key frames with window_overlap; got a model without it. Generate key frames with "
            "window_overlap 0, or train an adapter with image_condition."
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
            images = pipeline.generate(batch, sampling, **options).images if generate is None else generate(batch)
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
    """Split a sequence into calls of the model.

    Args:
        key_positions: Positions of the key frames, ascending, including the first and the last frame.
        num_frames: Length of the sequence.
        num_views: Maximum number of frames per part.
        window_overlap: Number of known key frames in every window except the first.

    Returns:
        Rounds of parts; the parts of a round depend only on frames of earlier rounds.

    Raises:
        ValueError: A setting is out of range, or the sequence does not begin and end with a key frame.

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
            f"num_views must be at least {3 if between else 1}{', two key frames and one between' * between}; got "
            f"{num_views}. The paper uses {NUM_VIEWS}."
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
    """Split key frames into as few windows as possible, about equally long, which overlap by `overlap` frames."""
    count = max(1, -(-(len(keys) - overlap) // (num_views - overlap)))
    windows, start = [], 0
    for part in np.array_split(range(len(keys) + (count - 1) * overlap), count):
        window = keys[start : start + len(part)]
        windows.append(Part(window, window[:overlap] if start else []))
        start += len(part) - overlap
    return windows


def _between(first: int, last: int, num_views: int) -> list[Part]:
    """Split the frames between two positions evenly, in temporal order."""
    count = last - first - 1
    chunks = np.array_split(range(first + 1, last), -(-count // (num_views - 2))) if count else []
    return [Part([first, *chunk.tolist(), last], [first, last]) for chunk in chunks]


def first_frames(sequence: FrameSequence, num_frames: int) -> FrameSequence:
    """Return the first frames of a sequence, at most `num_frames`, cut after the last key frame among them."""
    if num_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {num_frames}.")
    first = set(sequence.frame_ids[:num_frames])
    keys = [frame for frame in sequence.key_ids if frame in first]
    frames = [frame for frame in sequence.frame_ids if frame <= keys[-1]]
    return FrameSequence(sequence.scene, frames, keys, sequence.height, sequence.width)


def _sample(
    part: Part, frames: Sequence[Frame], prompts: list[str], pictures: Mapping[int, Tensor], sample_id: str
) -> dict[str, Any]:
    """Combine the frames of a part to a sample for `MultiViewBatch.collate`; known images are generated ones."""
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
