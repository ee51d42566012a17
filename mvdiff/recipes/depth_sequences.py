"""Whole sequences of the depth recipe: made in two stages, their agreement with key frames, and their meshes.

A frame between two key frames is compared with each of the two: the key frame is warped into it by depth and poses,
occluded points left out, and the PSNR taken over what both see. The key frames are those of the sequence with CAA for
every method, so that methods differ in the frames between alone; a pair of key frames counts as one sample.

Legend: V frames, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from mvdiff.data.sequences import FrameSequence, full_sequence
from mvdiff.eval.intervals import interval, mean, paired_difference
from mvdiff.eval.overlap import combine, depth_overlap_errors
from mvdiff.geometry.depth import DEFAULT_DEPTH_TOLERANCE
from mvdiff.mesh import Mesh, SelectedFrames, extract_mesh, fuse, simplified, turned_upright, up_axis, write_mesh
from mvdiff.mesh.frames import SampleFrames
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sequence_folders import generate_sequence_folder, write_real_sequence
from mvdiff.report import Gallery, MeshEntry
from mvdiff.report.pictures import channels_last
from mvdiff.samples import Sample, find_samples, read_sample
from mvdiff.settings import Controls

INTERPOLATED, INDEPENDENT, REAL = "interpolated", "base, frame by frame", "ground truth"
FOLDERS = {INTERPOLATED: "sequences", INDEPENDENT: "sequences_base", REAL: "sequences_truth"}
ROW_NAMES = {INTERPOLATED: "two stages", INDEPENDENT: INDEPENDENT, REAL: REAL}
MESH_NAMES = {INTERPOLATED: "two stages, with CAA", INDEPENDENT: "base, frame by frame", REAL: "ground truth"}
VOXEL_SIZE = 0.04
"""Metres; a pixel of a toy frame covers about as much of a wall."""
EVERY = 2
"""One frame of so many is fused: a walk sees everything more often than a mesh needs."""
SHOWN_FACES = 60_000


@dataclass(frozen=True)
class SequenceFolders:
    """Sequences by method, as sample folders below `root`."""

    root: Path

    def folder(self, method: str) -> Path:
        """Return the folder of a method's sequences."""
        return self.root / FOLDERS[method]

    def samples(self, method: str) -> dict[str, Sample]:
        """Open a method's sequences, by the name of their room."""
        samples = map(read_sample, find_samples(self.folder(method)))
        return {sample.record.sample_id: sample for sample in samples}

    def generate(self, pipeline: MultiViewPipeline, scenes: Sequence[Any], size: tuple[int, int], **how: Any) -> None:
        """Make all frames of scenes in two stages, and frame by frame by the base, on equal noise; write the real ones.

        Args:
            pipeline: The model.
            scenes: Posed RGB-D recordings.
            size: Height and width of a frame.
            **how: Seed, sampling, `num_views` and `batch_size` of `generate_sequence_folder`.
        """
        base = {"window_overlap": 0, "controls": Controls(caa=False)}
        for scene in scenes:
            sequence = full_sequence(scene, *size)
            alone = FrameSequence(scene, sequence.frame_ids, sequence.frame_ids, *size)  # none is given
            generate_sequence_folder(pipeline, sequence, self.folder(INTERPOLATED), overwrite=True, **how)
            generate_sequence_folder(pipeline, alone, self.folder(INDEPENDENT), overwrite=True, **how, **base)
            write_real_sequence(sequence, self.folder(REAL), overwrite=True)

    def agreement(self, seed: int) -> dict[str, Any]:
        """Measure how frames between key frames agree with these, in dB.

        Returns:
            `{"methods": {name: Interval}, "difference": Interval of interpolated - independent, "num_gaps": count,
            "num_frames": frames between, "num_sequences": count}`; resampled are pairs of key frames.

        Raises:
            ValueError: No sequence has a frame between two key frames.
        """
        samples = {method: self.samples(method) for method in FOLDERS}
        values: dict[str, list[float]] = {method: [] for method in FOLDERS}
        num_frames = 0
        for name, made in samples[INTERPOLATED].items():
            images = {method: samples[method][name].images_uint8() for method in FOLDERS}
            keys = images | {INDEPENDENT: images[INTERPOLATED]}
            for gap in gaps(made):
                scores = [gap_psnr(made, images[method], keys[method], gap) for method in FOLDERS]
                if None not in scores:
                    num_frames += gap[1] - gap[0] - 1
                    for method, score in zip(FOLDERS, scores, strict=True):
                        values[method].append(score)
        if not num_frames:
            raise ValueError(
                f"sequences must have frames between key frames; got none in {len(samples[REAL])}. Lower arc_deg or "
                "raise num_frames."
            )
        return {
            "methods": {method: interval(mean, scores, seed=seed) for method, scores in values.items()},
            "difference": paired_difference(values[INTERPOLATED], values[INDEPENDENT], seed=seed),
            "num_gaps": len(values[REAL]),
            "num_frames": num_frames,
            "num_sequences": len(samples[REAL]),
        }

    def fused(self, out: Path) -> MeshEntry:
        """Fuse the first sequence of each method on the same depths; write `<out>/<method>.glb`."""
        meshes: dict[str, Mesh] = {}
        for method, name in MESH_NAMES.items():
            frames = SelectedFrames(SampleFrames(next(iter(self.samples(method).values()))), EVERY)
            mesh, up = extract_mesh(fuse(frames, voxel_size=VOXEL_SIZE)), up_axis(frames.poses()[0])
            write_mesh(out / f"{FOLDERS[method]}.glb", mesh, up)
            meshes[name] = turned_upright(simplified(mesh, SHOWN_FACES), up)
        return MeshEntry("held-out room 1", meshes)

    def galleries(self, max_frames: int) -> list[Gallery]:
        """Show the first frames of every sequence."""
        galleries, sequences = [], {method: self.samples(method) for method in FOLDERS}
        for number, name in enumerate(sequences[REAL], start=1):
            record = sequences[INTERPOLATED][name].record
            frames, keys = record.settings["frames"][:max_frames], set(record.settings["key_frames"])
            labels = [f"key {frame}" if frame in keys else f"{frame}" for frame in frames]
            rows = {
                ROW_NAMES[method]: channels_last(samples[name].images_uint8()[:max_frames])
                for method, samples in sequences.items()
            }
            title = f"sequence {number}: key frames and those between"
            galleries.append(Gallery(rows, title, labels, record.prompts[:max_frames]))
        return galleries


def gap_psnr(sample: Sample, images_uint8: Tensor, keys_uint8: Tensor, gap: tuple[int, int]) -> float | None:
    """Return the mean PSNR of the frames between two key frames against each of the two, in dB.

    Args:
        sample: Sample with depths and cameras.
        images_uint8: [V, 3, H, W] the frames.
        keys_uint8: [V, 3, H, W] the key frames, in their places.
        gap: Places of the two key frames.

    Returns:
        The mean over pairs; None where no pair sees the same.
    """
    first, last = gap
    places = slice(first, last + 1)
    K, R, _, _ = sample.record.camera_tensors()
    t, images = sample.record.translations(), images_uint8[places].clone()
    images[0], images[-1] = keys_uint8[first], keys_uint8[last]
    pairs = [(frame, key) for frame in range(1, last - first) for key in (0, last - first)]
    cameras = (sample.depths()[places], K[places], R[places], t[places])
    errors = depth_overlap_errors(images, *cameras, pairs=pairs, tolerance=DEFAULT_DEPTH_TOLERANCE)
    return combine([errors])["overlap_psnr_mean_of_pairs"] if errors.pairs else None


def gaps(sample: Sample) -> list[tuple[int, int]]:
    """Return the places of consecutive key frames that have frames between them."""
    place = {frame: i for i, frame in enumerate(sample.record.settings["frames"])}
    keys = [place[frame] for frame in sample.record.settings["key_frames"]]
    return [(first, last) for first, last in pairwise(keys) if last - first > 1]
