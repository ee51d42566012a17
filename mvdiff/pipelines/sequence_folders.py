"""Whole sequences of frames into sample folders, frame by frame: generated, or real to score against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mvdiff.data.sequences import FrameSequence
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import GenerationCounts, described_settings, is_done, library_versions
from mvdiff.pipelines.sampling import PAPER_SAMPLING
from mvdiff.pipelines.two_stage import NUM_VIEWS, GeneratedFrame, generate_sequence
from mvdiff.samples import SampleRecord, SampleWriter, camera_record, sample_folder, to_uint8
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS


def generate_sequence_folder(
    pipeline: MultiViewPipeline,
    sequence: FrameSequence,
    out: str | Path,
    *,
    seed: int = 0,
    prompt: str | None = None,
    num_views: int = NUM_VIEWS,
    window_overlap: int = 1,
    batch_size: int = 1,
    sampling: Sampling = PAPER_SAMPLING,
    controls: Controls = NO_CONTROLS,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[GeneratedFrame], Any] | None = None,
) -> GenerationCounts:
    """Generate a sequence into one sample folder, named by its scene; each frame is written as soon as it is made.

    Args:
        pipeline: What generates.
        sequence: See `generate_sequence`.
        out: Root of the sample folders.
        seed: With the scene's name and a frame's number it fixes the noise.
        prompt: One text for all frames in place of their captions.
        num_views: See `generate_sequence`, as for the next two.
        window_overlap: Given key frames of a window.
        batch_size: Parts at once.
        sampling: Steps, guidance, negative prompt, eta.
        controls: What to switch off.
        overwrite: Generate a complete sample again.
        settings: More to note in `sample.json`, compared on a rerun too.
        progress: Called with each frame when it is written.

    Returns:
        Counts of written samples (0 or 1), and of those that were complete before.

    Raises:
        FileNotFoundError: A file of a frame is missing.
        ValueError: See `generate_sequence`; or a complete sample was made with other settings, or a file is broken.
        OSError: The folder cannot be written; the sample stays incomplete.
    """
    frames = generate_sequence(
        pipeline,
        sequence,
        prompt=prompt,
        seed=seed,
        num_views=num_views,
        window_overlap=window_overlap,
        batch_size=batch_size,
        sampling=sampling,
        controls=controls,
    )
    record = _sequence_record(sequence, prompt)
    noted = described_settings(pipeline, sampling, controls) | {
        "num_views": num_views,
        "window_overlap": window_overlap,
    }
    record = replace(record, seed=seed, settings=noted | record.settings | dict(settings or {}))
    folder = sample_folder(out, record.sample_id)
    if not overwrite and is_done(folder, record):
        return GenerationCounts(written=0, skipped=1)
    writer = SampleWriter(folder, overwrite)
    for generated in frames:
        writer.add(generated.position, generated.image_uint8, generated.frame.depths)
        if progress is not None:
            progress(generated)
    writer.finish(record)
    return GenerationCounts(written=1, skipped=0)


def write_real_sequence(
    sequence: FrameSequence, out: str | Path, overwrite: bool = False, prompt: str | None = None
) -> GenerationCounts:
    """Write the real frames of a sequence as the sample that `generate_sequence_folder`'s is scored against.

    Args:
        sequence: The frames.
        out: Root of the sample folders.
        overwrite: Write a complete sample again.
        prompt: One text for all frames of a scene without captions.

    Returns:
        Counts of written samples (0 or 1), and of those that were complete before.

    Raises:
        FileNotFoundError: A file of a frame is missing.
        ValueError: A complete sample has other frames; or a file is broken.
        OSError: The folder cannot be written.
    """
    record = _sequence_record(sequence, None if sequence.scene.has_captions else prompt)
    folder = sample_folder(out, record.sample_id)
    if not overwrite and is_done(folder, record):
        return GenerationCounts(written=0, skipped=1)
    writer = SampleWriter(folder, overwrite)
    for position in range(len(sequence)):
        frame = sequence.frame(position)
        writer.add(position, to_uint8(frame.image).movedim(0, -1), frame.depths)
    writer.finish(record)
    return GenerationCounts(written=1, skipped=0)


def _sequence_record(sequence: FrameSequence, prompt: str | None) -> SampleRecord:
    """Describe a sequence without reading its pictures and depths."""
    scene, height, width = sequence.scene, sequence.height, sequence.width
    R, t = (torch.stack(values) for values in zip(*map(scene.pose, sequence.frame_ids), strict=True))
    K = torch.stack([scene.intrinsics(height, width, frame) for frame in sequence.frame_ids])
    return SampleRecord(
        sequence.name,
        [scene.prompt(frame) if prompt is None else prompt for frame in sequence.frame_ids],
        cameras=camera_record(K, R, t, height, width),
        settings={"frames": sequence.frame_ids, "key_frames": sequence.key_ids},
        versions=library_versions(),
    )
