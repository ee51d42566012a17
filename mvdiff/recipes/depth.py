"""The depth quickstart: frames of toy rooms from depth and poses, in two stages, and their mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from mvdiff.data.frames import FrameDataset
from mvdiff.data.scannet_datamodule import ScanNetDataModule
from mvdiff.data.toyworld.truth import WalkTruth
from mvdiff.eval.metrics.thing_colours import ThingColours
from mvdiff.eval.sources import DataSource
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.recipes.compared import BASE, CAA, FOREIGN, TRUTH
from mvdiff.recipes.depth_sequences import INDEPENDENT, INTERPOLATED, REAL, SequenceFolders
from mvdiff.recipes.fit_command import Training, adapter_folder, run_folder
from mvdiff.recipes.page import chart_of, table_of
from mvdiff.recipes.recipe import Outcome, Recipe, Steps
from mvdiff.recipes.scoring import FID, OF_TRUTH, POOLED, PSNR, RESAMPLES, SHARP, Number, Pass, Results, signed
from mvdiff.recipes.settings import DepthSettings
from mvdiff.report import Chart, Column, Gallery, Table
from mvdiff.report.pictures import channels_last, depth_pictures

HEIGHT, WIDTH = 48, 64
TRAINING_PRECISION = {"trainer.precision": "32-true"}
"""Convolutions that learn are slow in bfloat16 on CPUs (notes/libraries.md); other tasks train none."""
STAGE1_SCRATCH, STAGE1 = "stage 1, from a base without depth", "stage 1, packaged, continued"
FRAMES_PER_STEP, SHOWN_FRAMES = 32, 16
COLOURS, PAIR_RATIO, UNOCCLUDED = "thing_colours", "mean_of_pair_ratios", "unoccluded"
OCCLUDED_LEFT_OUT = Column("overlap PSNR, occluded left out", "dB", "higher", 1)


class DepthRecipe(Recipe):
    """Key frames of held-out toy rooms from captions, depths and poses, and the frames between them."""

    command = "mvdiff quickstart depth"
    title = "mvdiff quickstart: depth to frames"
    base = "{s.base}, {s.stage1_steps} steps further"
    layout = "scannet"
    making_world = "toy world: {s.rooms} rooms to walk through, {s.test_rooms} held out"
    making = "generating key frames of {s.test_rooms} rooms"
    unit = "sequences"
    numbers = (
        Number.of(PSNR, digits=1),
        Number.of(POOLED, digits=1),
        OF_TRUTH,
        Number(PAIR_RATIO, Column("mean of pair ratios", "", "higher", 2), (PSNR, PAIR_RATIO)),
        Number(UNOCCLUDED, OCCLUDED_LEFT_OUT, (PSNR, UNOCCLUDED, "value")),
        Number.of(FID),
        Number.of(COLOURS, digits=2),
        SHARP,
    )
    differences = (
        Number.of(PSNR, name="overlap PSNR", better=None),
        Number.of(FID, better=None),
        Number.of(COLOURS, better=None),
        SHARP,
    )
    content = COLOURS, "colours of things"
    tables_say = (
        (
            "Held-out key frames",
            "{num_sequences} rooms, {num_views} key frames each; 95% intervals over rooms. Overlap PSNR of "
            "consecutive key frames at 48x64 over pixels whose depth is off by at most 0.5 m (the paper's protocol), "
            "and with the stricter test of occlusion that the attention uses. The ratio is of the means; beside it, "
            "the mean of the ratios of pairs. Toy FID: the project's {feature_network[name]} network "
            "({feature_network[weights_hash]:.12}) against {num_reference_sequences} sequences of training rooms; not "
            "comparable with Inception scores. Colours are read at the {num_things} places where things stand.",
        ),
        (
            "Paired differences, same captions, depths and seeds",
            "Positive: more than the base. Only attention to the right neighbours may raise the overlap PSNR.",
        ),
    )
    between_table: ClassVar[tuple[str, str]] = (
        "Frames between two key frames against these key frames",
        "{num_frames} frames between {num_gaps} pairs of key frames (rooms: {num_sequences}); intervals over pairs of "
        "key frames. The key frames were made with CAA, and those of the ground truth are its own.",
    )
    settings: DepthSettings

    def __init__(self, settings: DepthSettings) -> None:
        super().__init__(settings)
        self.sequences = SequenceFolders(settings.out / "samples")

    def check(self) -> None:
        """Find the adapter."""
        adapter_folder(self.settings.init_adapter)

    def world(self) -> dict[str, Any]:
        """Draw walks through rooms."""
        return {"size": WIDTH, "num_frames": self.settings.num_frames, "arc_deg": self.settings.arc_deg}

    def trainings(self) -> dict[str, list[Training]]:
        """Train both stages, each from scratch and from packaged weights; stage 2 stands on the packaged stage 1.

        Stage 2 from scratch has samples of half as many views and twice as many of them: as much work with as many
        more timesteps, so that a curve of a minute rises.
        """
        settings, packaged = self.settings, adapter_folder(self.settings.init_adapter)
        scratch = self._stage2(max(3, settings.num_views // 2), 2 * settings.batch_size)
        scratch = {"config": "toy/depth.yaml", "max_steps": settings.max_steps, "lr": 3e-4, "options": scratch}
        start = {"model.base": settings.base, "model.add_input": "false"}
        steps = {
            f"stage 1, single frames: a base without depth, then the packaged one, {settings.stage1_steps} steps": [
                self._stage1(STAGE1_SCRATCH, 4e-4, {}),
                self._stage1(STAGE1, 1e-5, start),
            ],
            "the base on the validation rooms, before stage 2": [
                Training(name="before", command="validate", **scratch)
            ],
            f"stage 2 from scratch, {settings.max_steps} steps": [Training(name="from scratch", **scratch)],
        }
        if packaged is not None and settings.continue_steps:
            options = self._stage2(settings.num_views, settings.batch_size) | {
                "model.init_adapter": packaged,
                "model.num_validation_samples": 0,  # no curve: its loss is taken once, at its end
                "trainer.val_check_interval": settings.continue_steps,
            }
            run = {"config": "toy/depth.yaml", "max_steps": settings.continue_steps, "lr": 5e-5, "options": options}
            step = f"stage 2, the packaged weights further, {settings.continue_steps} steps"
            steps[step] = [Training(name="packaged, continued", **run)]
        return steps

    def trained_base(self, name: str = STAGE1) -> Path:
        """Return the folder of the base that a run of stage 1 writes."""
        return run_folder(self.settings, name) / "base"

    def _stage1(self, name: str, lr: float, start: dict[str, Any]) -> Training:
        """Train a base on single frames; its curve begins before the first step."""
        options = {
            **TRAINING_PRECISION,
            "model.out": self.trained_base(name),
            "model.num_validation_samples": 0,
            "data.root": self.data_root,
            "data.batch_size": min(FRAMES_PER_STEP, self.settings.rooms - self.settings.test_rooms),
            "data.val_from": "train",
            **start,
        }
        run = {"config": "toy/depth_base.yaml", "max_steps": self.settings.stage1_steps, "lr": lr}
        return Training(name=name, **run, options=options, from_step_0=True)

    def _stage2(self, num_views: int, batch_size: int) -> dict[str, Any]:
        """Train on key frames to generate mixed with frames to interpolate; validate on key frames."""
        settings = self.settings
        return {
            **TRAINING_PRECISION,
            "total_batch_size": batch_size,
            "model.base": self.trained_base(),
            "model.sampling.num_inference_steps": max(1, settings.num_inference_steps // 2),
            "model.sampling.guidance_scale": settings.guidance_scale,
            "model.num_validation_samples": batch_size,
            "data.root": self.data_root,
            "data.max_val_samples": settings.num_validation_rooms,
            "data.eval_mode": "keyframes",
            "data.num_views": num_views,
            "data.min_frames": min(8, num_views),
            "data.batch_size": batch_size,
        }

    def data(self, num_views: int | None = None) -> ScanNetDataModule:
        """Return the walks as sequences of key frames, of `num_views` (default the settings') each."""
        num_views = num_views or self.settings.num_views
        return ScanNetDataModule(self.data_root, HEIGHT, WIDTH, num_views=num_views, num_val=0)

    def held_out(self) -> FrameDataset:
        """Return the first key frames of each held-out room: as many of each as the one with fewest has.

        Raises:
            ValueError: A room has fewer than 3.
        """
        fewest = min(len(scene.key_frames) for scene in self.data().scenes("test"))
        if fewest < 3:
            raise ValueError(
                f"every held-out room must have 3 key frames; got one with {fewest}. Raise arc_deg, so that walks see "
                "more."
            )
        return _first_windows(self.data(min(self.settings.num_views, fewest)).test_dataset())

    def more_samples(self, pipeline: MultiViewPipeline) -> Steps:
        """Generate all frames of the first held-out rooms."""
        settings = self.settings
        scenes = self.data().scenes("test")[: settings.sequences]
        how = {name: getattr(settings, name) for name in ("seed", "num_views", "batch_size")}
        how |= {"sampling": self.sampling}
        step = f"all frames, key frames first (rooms: {settings.sequences})"
        return {step: lambda: self.sequences.generate(pipeline, scenes, (HEIGHT, WIDTH), **how)}

    def passes(self) -> list[Pass]:
        """Compare with first key frames of training rooms; the overlap PSNR with that of the held-out frames."""
        reference = DataSource(self.data(), "train", str(self.data_root))
        _first_windows(reference.dataset)
        colours = ThingColours(things=self._things(), seed=self.settings.seed, num_resamples=RESAMPLES)
        return [(("toy_fid", "sharpness", colours), reference), (("overlap_psnr",), self.folder(TRUTH))]

    def _things(self) -> dict[str, tuple[torch.Tensor, list[str]]]:
        """Return, by sample, which thing each pixel [V, H, W] shows, and the colours of the things."""
        dataset, things = self.held_out(), {}
        for number, index in enumerate(dataset.indices):
            slot, frames = dataset.frames_of(0, index)
            truth = WalkTruth(dataset.scenes[slot.scene].path)
            labels = torch.stack([truth.labels(frame) for frame in frames])
            things[dataset[number]["sample_id"]] = labels, [thing["colour"] for thing in truth.things]
        return things

    def score(self, outcome: Outcome) -> Results:
        """Score all methods, and the frames between key frames."""
        results = super().score(outcome)
        outcome.scores["num_views"] = self.held_out().num_views
        outcome.scores["num_things"] = results[TRUTH]["metrics"][COLOURS]["num_things"]
        outcome.more = {"interpolation": self.sequences.agreement(self.settings.seed), "before": outcome.before}
        return results

    def more_steps(self, outcome: Outcome) -> Steps:
        """Fuse meshes of the first room."""

        def fuse() -> None:
            outcome.shown["meshes"] = [self.sequences.fused(self.settings.out / "meshes")]

        return {"fusing the mesh of a room": fuse}

    def tables(self, outcome: Outcome) -> list[Table]:
        """Return also the table of the frames between key frames."""
        found, (title, note) = outcome.more["interpolation"], self.between_table
        rows = {name: {UNOCCLUDED: value} for name, value in found["methods"].items()}
        between = table_of(title, [Number(UNOCCLUDED, OCCLUDED_LEFT_OUT)], rows, self.text(note, **found), (REAL,))
        return [*super().tables(outcome), between]

    def sentences(self, outcome: Outcome) -> list[str]:
        """Describe the results in sentences, for key frames and for the frames between."""
        found = outcome.more["interpolation"]
        made, alone, real = (found["methods"][name].estimate for name in (INTERPOLATED, INDEPENDENT, REAL))
        difference = found["difference"]
        better = difference.is_above(0) if difference.ends else difference.estimate > 0  # `signed` says which
        says = "agree with their key frames better than" if better else "do not agree with their key frames beyond"
        return [
            *super().sentences(outcome),
            f"Interpolated frames {says} independent ones: {made:.1f} against {alone:.1f} dB (real frames {real:.1f} "
            f"dB), paired {signed(difference)}.",
        ]

    def story(self, outcome: Outcome) -> list[str]:
        """Describe in sentences which weights made the frames and what the trainings from scratch reached."""
        settings, before = self.settings, outcome.before
        stage1, _, scratch, *further = outcome.runs
        steps, losses = scratch.curves["val/overlap_psnr"][0], stage1.curves["val/loss"][1]
        base = f"trained further here on single frames for {settings.stage1_steps} steps, and"
        return [
            f"The frames were made with packaged weights: the base, {base} the attention and image conditions, which "
            f"the same config made with more steps, for {settings.continue_steps}: minutes are too few to train them "
            "from scratch."
            if further
            else f"The frames were made with the packaged base, {base} with attention and image conditions trained "
            "here from scratch.",
            f"From scratch, on {settings.rooms - settings.test_rooms} rooms: stage 1 takes the held-out loss of a base "
            f"that knew no depth from {losses[0]:.3f} to {losses[-1]:.3f} in {settings.stage1_steps} steps; stage 2 "
            f"takes the overlap PSNR of validation key frames from {before['val/overlap_psnr']:.1f} to "
            f"{scratch.last('val/overlap_psnr'):.1f} dB and their held-out loss from {before['val/loss']:.4f} to "
            f"{scratch.last('val/loss'):.4f} in {steps[-1]} steps.",
        ]

    def sections(self, outcome: Outcome) -> dict[str, Any]:
        """Show curves, the first held-out key frames, and the first frames of every sequence."""
        galleries = []
        for number, samples in enumerate(self.rooms(), start=1):
            prompts = samples[CAA].record.prompts
            rows = {name: channels_last(samples[name].images_uint8()) for name in (BASE, CAA, FOREIGN, TRUTH)}
            rows["depth"] = depth_pictures(samples[CAA].depths())
            labels = [f"key {n}" for n in range(1, len(prompts) + 1)]
            galleries.append(Gallery(rows, f"held-out room {number}: key frames", labels, prompts))
        return {"charts": self.charts(outcome), "galleries": galleries + self.sequences.galleries(SHOWN_FRAMES)}

    def charts(self, outcome: Outcome) -> list[Chart]:
        """Draw stage 2's overlap PSNR and loss, and stage 1's loss."""
        stage1, stage2, before = outcome.runs[:2], outcome.runs[2:], outcome.before
        note = "Key frames generated from validation captions and depths on fixed seeds, with the averaged weights."
        psnr = ("Overlap PSNR while training", "val/overlap_psnr", "overlap PSNR (dB)", stage2, note)
        note = "Key frames of validation rooms at fixed timesteps and noise. Step 0 is the base alone."
        loss = ("Held-out loss of stage 2", "val/loss", "noise loss", stage2, note)
        note = "Single frames of validation rooms at fixed timesteps and noise."
        return [
            *(chart_of(*chart, at_0={stage2[0].name: before[chart[1]]}) for chart in (psnr, loss)),
            chart_of("Held-out loss of stage 1", "val/loss", "noise loss", stage1, note),
        ]


def _first_windows(dataset: FrameDataset) -> FrameDataset:
    """Keep of each room the sample that begins with its first key frame; return the data set itself."""
    dataset.indices = [index for index, slot in enumerate(dataset.slots) if slot.start == 0]
    return dataset
