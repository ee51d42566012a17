"""Whole sequences in two stages, and whether frames between two key frames agree with them.

A frame between two key frames is compared with each of the two: the key frame is warped into it by depth and poses,
occluded points left out, and the PSNR taken over what both see. The key frames are those of the sequence with CAA for
every method, so that methods differ in the frames between alone; a pair of key frames counts as one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mvdiff.data.sequences import FrameSequence, full_sequence
from mvdiff.eval.bootstrap import Interval, bootstrap, mean, paired_difference
from mvdiff.eval.depth_overlap import depth_overlap_errors
from mvdiff.eval.overlap import combine
from mvdiff.geometry.depth import DEFAULT_DEPTH_TOLERANCE
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.frame_folders import generate_sequence_folder, write_real_sequence
from mvdiff.quickstart.compared import sampling
from mvdiff.quickstart.depth.methods import data_module
from mvdiff.quickstart.depth.settings import HEIGHT, WIDTH, DepthSettings
from mvdiff.samples import Sample, find_samples, read_sample

INTERPOLATED, INDEPENDENT, REAL = "interpolated", "base, frame by frame", "ground truth"
FOLDERS = {INTERPOLATED: "sequences", INDEPENDENT: "sequences_base", REAL: "sequences_truth"}


def sequences(settings: DepthSettings) -> list[FrameSequence]:
    """Return all frames, from the first to the last key frame, of the first held-out rooms."""
    scenes = data_module(settings).scenes("test")[: settings.sequences]
    return [full_sequence(scene, HEIGHT, WIDTH) for scene in scenes]


def generate(settings: DepthSettings, pipeline: MVDiffusionDepthPipeline) -> None:
    """Make the sequences in two stages, and frame by frame by the base, on the same noise; write the real ones."""
    how: dict[str, Any] = {"seed": settings.seed, "num_views": settings.num_views, "batch_size": settings.batch_size}
    how |= {"overwrite": True, **sampling(settings)}
    pipeline.set_progress_bar_config(disable=True)
    for sequence in sequences(settings):
        generate_sequence_folder(pipeline, sequence, folder_of(settings, INTERPOLATED), **how)
        alone = FrameSequence(sequence.scene, sequence.frame_ids, sequence.frame_ids, HEIGHT, WIDTH)  # none given
        generate_sequence_folder(pipeline, alone, folder_of(settings, INDEPENDENT), window_overlap=0, caa=False, **how)
        write_real_sequence(sequence, folder_of(settings, REAL), overwrite=True)


def agreement(settings: DepthSettings) -> dict[str, Any]:
    """Measure how frames between key frames agree with these, in dB.

    Returns:
        `{"methods": {name: Interval}, "difference": Interval of interpolated - independent, "num_gaps": count,
        "num_frames": frames between, "num_sequences": count}`; resampled are pairs of key frames.

    Raises:
        ValueError: No sequence has a frame between two key frames.
    """
    samples = {method: opened(settings, method) for method in FOLDERS}
    values: dict[str, list[float]] = {method: [] for method in FOLDERS}
    num_frames = 0
    for name, made in samples[INTERPOLATED].items():
        pictures = {method: samples[method][name].images_uint8() for method in FOLDERS}
        for gap in gaps(made):
            scores = {method: gap_psnr(made, pictures[method], _keys(method, pictures), gap) for method in FOLDERS}
            if all(score is not None for score in scores.values()):
                num_frames += gap[1] - gap[0] - 1
                for method, score in scores.items():
                    values[method].append(score)
    if not num_frames:
        raise ValueError(
            f"sequences must have frames between key frames; got none in {len(samples[REAL])}. Lower arc_deg or raise "
            "num_frames."
        )
    intervals = {method: bootstrap(mean, scores, seed=settings.seed) for method, scores in values.items()}
    difference: Interval = paired_difference(values[INTERPOLATED], values[INDEPENDENT], seed=settings.seed)
    counts = {"num_gaps": len(values[REAL]), "num_frames": num_frames, "num_sequences": len(samples[REAL])}
    return {"methods": intervals, "difference": difference, **counts}


def _keys(method: str, pictures: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the pictures [V, 3, H, W] that a method's frames are compared with."""
    return pictures[REAL if method == REAL else INTERPOLATED]


def gap_psnr(
    sample: Sample, images_uint8: torch.Tensor, keys_uint8: torch.Tensor, gap: tuple[int, int]
) -> float | None:
    """Return the mean PSNR of the frames between two key frames against each of the two, in dB.

    Args:
        sample: Whose depths and cameras these are.
        images_uint8: [V, 3, H, W] the frames.
        keys_uint8: [V, 3, H, W] the key frames, in their places.
        gap: Places of the two key frames.

    Returns:
        The mean over pairs; None where none of them sees the same.
    """
    first, last = gap
    places = slice(first, last + 1)
    K, R, _, _ = sample.record.camera_tensors()
    t, images = sample.record.translations(), images_uint8[places].clone()
    images[0], images[-1] = keys_uint8[first], keys_uint8[last]
    inner = range(1, last - first)
    pairs = [(frame, key) for frame in inner for key in (0, last - first)]
    cameras = (sample.depths()[places], K[places], R[places], t[places])
    errors = depth_overlap_errors(images, *cameras, pairs=pairs, tolerance=DEFAULT_DEPTH_TOLERANCE)
    return combine([errors])["overlap_psnr_mean_of_pairs"] if errors.pairs else None


def gaps(sample: Sample) -> list[tuple[int, int]]:
    """Return the places of consecutive key frames that have frames between them."""
    place = {frame: i for i, frame in enumerate(sample.record.settings["frames"])}
    keys = [place[frame] for frame in sample.record.settings["key_frames"]]
    return [(first, last) for first, last in pairwise(keys) if last - first > 1]


def opened(settings: DepthSettings, method: str) -> dict[str, Sample]:
    """Return a method's sequences by the name of their room."""
    samples = map(read_sample, find_samples(folder_of(settings, method)))
    return {sample.record.sample_id: sample for sample in samples}


def folder_of(settings: DepthSettings, method: str) -> Path:
    """Return the folder of a method's sequences."""
    return settings.samples / FOLDERS[method]
