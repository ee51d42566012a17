"""Frames with depth and pose into sample folders: batches of them, or whole sequences frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.sequences import FrameSequence
from mvdiff.models.conditioning import given_frames
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.sample_folders import GenerationCounts, described_settings, is_done, library_versions
from mvdiff.pipelines.two_stage import NUM_VIEWS, GeneratedFrame, generate_sequence
from mvdiff.samples import SampleRecord, SampleWriter, camera_record, sample_folder, to_uint8, write_sample


def generate_frame_samples(
    pipeline: MVDiffusionDepthPipeline,
    batch: MultiViewBatch,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    **call: Any,
) -> GenerationCounts:
    """Generate the samples of a batch and write a folder each: frames, depths, cameras; padding is left out.

    Given frames (`batch.known`) are written as the model renders them, never as they are, so that scores are of
    generated pixels only; `settings["given"]` lists them.

    Args:
        pipeline: What generates.
        batch: Frames with depth and pose; its prompts carry the pipeline's prefix.
        out: Root of the sample folders.
        seed: With a sample's id it fixes the noise.
        overwrite: Generate complete samples again.
        settings: More to note in `sample.json`, compared on a rerun too.
        **call: Further arguments of the pipeline's call.

    Returns:
        Counts of written samples, and of those that were complete before.

    Raises:
        ValueError: A complete sample was made with other prompts, cameras, seed or settings.
        OSError: The folder cannot be written; samples that are complete stay.
    """
    noted = described_settings(pipeline, call) | dict(settings or {})
    records, given = [], given_frames(batch.known, batch.view_valid)
    for i in range(batch.batch_size):
        record = frame_record(batch, i, pipeline.prompt_prefix)
        records.append(replace(record, seed=seed, settings=noted | {"given": given[i].nonzero()[:, 0].tolist()}))
    rows = [
        i for i, record in enumerate(records) if overwrite or not is_done(sample_folder(out, record.sample_id), record)
    ]
    if rows:
        part = _rows(batch, rows)
        images = pipeline(
            part.prompts,
            part.depths,
            part.K,
            part.R,
            part.t,
            view_valid=part.view_valid,
            images=part.images,
            known=part.known,
            seed=seed,
            sample_ids=part.sample_id,
            prompt_prefix="",  # the prompts of a batch carry it already
            output_type="uint8",
            **call,
        ).images
        for views, i in zip(images, rows, strict=True):
            valid, folder = batch.view_valid[i].cpu(), sample_folder(out, records[i].sample_id)
            depths = batch.depths[i].cpu()[valid]
            write_sample(folder, records[i], views[valid], overwrite=overwrite, depths=depths)
    return GenerationCounts(written=len(rows), skipped=len(records) - len(rows))


def frame_record(batch: MultiViewBatch, index: int, prompt_prefix: str) -> SampleRecord:
    """Describe a sample of a batch of frames, without its padding: prompts (prefix taken off), cameras, versions."""
    valid = batch.view_valid[index].cpu()
    cameras = (value[index].cpu()[valid] for value in (batch.K, batch.R, batch.t))
    prompts = [prompt for prompt, kept in zip(batch.prompts[index], valid.tolist(), strict=True) if kept]
    return SampleRecord(
        batch.sample_id[index],
        [prompt.removeprefix(prompt_prefix) for prompt in prompts],
        cameras=camera_record(*cameras, *batch.images.shape[-2:]),
        versions=library_versions(),
    )


def generate_sequence_folder(
    pipeline: MVDiffusionDepthPipeline,
    sequence: FrameSequence,
    out: str | Path,
    *,
    seed: int = 0,
    prompt: str | None = None,
    num_views: int = NUM_VIEWS,
    window_overlap: int = 1,
    batch_size: int = 1,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[GeneratedFrame], Any] | None = None,
    **call: Any,
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
        overwrite: Generate a complete sample again.
        settings: More to note in `sample.json`, compared on a rerun too.
        progress: Called with each frame when it is written.
        **call: Further arguments of the pipeline's call.

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
        **call,
    )
    record = _sequence_record(sequence, prompt)
    noted = described_settings(pipeline, call) | {"num_views": num_views, "window_overlap": window_overlap}
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


def _rows(batch: MultiViewBatch, rows: list[int]) -> MultiViewBatch:
    """Return some samples of a batch."""
    chosen = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            chosen[field.name] = value[rows]
        elif isinstance(value, list):
            chosen[field.name] = [value[i] for i in rows]
    return replace(batch, **chosen)
