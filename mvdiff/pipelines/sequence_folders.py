"""Write whole sequences of frames to sample folders, frame by frame: generated frames, or real ones as reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.sequences import FrameSequence
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import (
    GenerationCounts,
    described_settings,
    is_done,
    library_versions,
    with_text_notes,
)
from mvdiff.pipelines.sampling import PAPER_SAMPLING
from mvdiff.pipelines.two_stage import NUM_VIEWS, GeneratedFrame, generate_sequence
from mvdiff.samples import SampleRecord, SampleWriter, camera_record, sample_folder, to_uint8
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS


class FrameMethod(Protocol):
    """What `generate_sequence_folder` needs of a `mvdiff.methods.method.Method`."""

    name: str

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return images [B, V, 3, H, W] in [-1, 1] on the CPU."""

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings that affect an image."""

    def text_notes(self, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """Return notes on cut and empty prompts."""

    def warn_of_texts(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Log a warning about cut and empty prompts."""


def generate_sequence_folder(
    pipeline: MultiViewPipeline | None,
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
    method: FrameMethod | None = None,
) -> GenerationCounts:
    """Generate a sequence and write it to one sample folder, named after the scene; each frame is written at once.

    For arguments that are not listed see `generate_sequence`.

    Args:
        out: Root of the sample folders.
        overwrite: Regenerate a sample that is already complete.
        settings: Additional settings to record in `sample.json`; a rerun compares them too.
        progress: Called with each frame after it is written.
        method: Method to use in place of `pipeline` and `controls`.

    Returns:
        Numbers of written (0 or 1) and skipped samples.

    Raises:
        FileNotFoundError: A file of a frame is missing.
        ValueError: See `generate_sequence`; or a complete sample has other settings, or a file is corrupt.
        OSError: The folder cannot be written; a new sample stays incomplete, a complete one as it was.
    """
    parts = {"num_views": num_views, "window_overlap": window_overlap}
    how = {"seed": seed, "sampling": sampling, "controls": controls, "batch_size": batch_size}
    if method is not None:
        how["generate"] = lambda batch: method.generate(batch, sampling, seed)
    generated = generate_sequence(pipeline, sequence, prompt=prompt, **parts, **how)
    record, source = _sequence_record(sequence, prompt), method or pipeline
    source.warn_of_texts(record.prompts, sampling)
    described = described_settings(pipeline, sampling, controls) if method is None else method.describe(sampling)
    noted = described | parts | record.settings | dict(settings or {})
    if method is not None:
        noted["method"] = method.name
    noted = with_text_notes(noted, source.text_notes(record.prompts, sampling))

    def views() -> Iterator[tuple[int, Tensor, Tensor]]:
        for frame in generated:
            yield frame.position, frame.image_uint8, frame.frame.depths
            if progress is not None:
                progress(frame)

    return _write(replace(record, seed=seed, settings=noted), views(), out, overwrite)


def write_real_sequence(
    sequence: FrameSequence, out: str | Path, overwrite: bool = False, prompt: str | None = None
) -> GenerationCounts:
    """Write the real frames of a sequence as the reference sample for the output of `generate_sequence_folder`.

    See there for arguments, counts and errors; `prompt` is used only for scenes without captions.
    """
    record = _sequence_record(sequence, None if sequence.scene.has_captions else prompt)
    frames = map(sequence.frame, range(len(sequence)))
    views = ((i, to_uint8(frame.image).movedim(0, -1), frame.depths) for i, frame in enumerate(frames))
    return _write(record, views, out, overwrite)


def _write(
    record: SampleRecord, views: Iterable[tuple[int, Tensor, Tensor]], out: str | Path, overwrite: bool
) -> GenerationCounts:
    """Write views (position, image, depths) one by one, unless the sample is complete."""
    folder = sample_folder(out, record.sample_id)
    if not overwrite and is_done(folder, record):
        return GenerationCounts(written=0, skipped=1)
    writer = SampleWriter(folder, overwrite)
    try:
        for view in views:
            writer.add(*view)
        writer.finish(record)
    except BaseException:
        writer.discard()
        raise
    return GenerationCounts(written=1, skipped=0)


def _sequence_record(sequence: FrameSequence, prompt: str | None) -> SampleRecord:
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
