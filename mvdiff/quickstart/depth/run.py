"""The whole depth quickstart, step by step, with what each step took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvdiff.quickstart.depth.settings import WIDTH, DepthSettings
from mvdiff.quickstart.provenance import Clock, footer, write_results
from mvdiff.quickstart.training import Run, RunTrainer, adapter_folder


def run_depth_quickstart(settings: DepthSettings, run_trainer: RunTrainer) -> Path:
    """Make data, train both stages, generate, interpolate, score and report.

    Args:
        settings: What to do and how much of it.
        run_trainer: Runs `mvdiff fit|validate` with the given arguments.

    Returns:
        The path of `report.html`; `results.json`, samples, runs and data lie beside it.

    Raises:
        ValueError: Settings that cannot work.
        FileNotFoundError: `base` or `adapter` is not there.
        OSError: The folder cannot be written.
    """
    settings = settings.check()
    clock = Clock()
    from mvdiff.data.toyworld import write_toyworld
    from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
    from mvdiff.quickstart import compared
    from mvdiff.quickstart.depth import interpolation, meshes, methods, page, scores, training

    packaged = adapter_folder(settings.adapter)
    with clock.step(f"toy world: {settings.rooms} rooms to walk through, {settings.test_rooms} held out"):
        write_toyworld(
            settings.out / "data",
            rooms=settings.rooms,
            seed=settings.seed,
            size=WIDTH,
            test_rooms=settings.test_rooms,
            num_frames=settings.num_frames,
            arc_deg=settings.arc_deg,
            num_workers=settings.num_workers,
        )
        methods.held_out(settings)  # an error in the settings shows before anything is trained
    with clock.step(
        f"stage 1, single frames: a base without depth, then the packaged one, {settings.stage1_steps} steps"
    ):
        names = (training.STAGE1_SCRATCH, training.STAGE1)
        stage1 = [training.train_stage1(settings, run_trainer, name) for name in names]
    with clock.step("the base on the validation rooms, before stage 2"):
        before = training.validate_fresh(settings, run_trainer)
    with clock.step(f"stage 2 from scratch, {settings.max_steps} steps"):
        name, steps, lr = training.SCRATCH, settings.max_steps, training.SCRATCH_LR
        runs = [training.train_stage2(settings, run_trainer, name, steps, lr)]
    if packaged is not None and settings.continue_steps:
        with clock.step(f"stage 2, the packaged weights further, {settings.continue_steps} steps"):
            name, steps, lr = training.CONTINUED, settings.continue_steps, training.CONTINUED_LR
            runs.append(training.train_stage2(settings, run_trainer, name, steps, lr, packaged))
    pipeline = MVDiffusionDepthPipeline.from_pretrained(runs[-1].model)
    for method in compared.GENERATED:
        with clock.step(f"generating key frames of {settings.test_rooms} rooms: {method}"):
            methods.generate(settings, pipeline, method)
    with clock.step(f"all frames, key frames first (rooms: {settings.sequences})"):
        interpolation.generate(settings, pipeline)
    with clock.step("scoring"):
        methods.write_references(settings, pipeline)
        scored = scores.score_all(settings)
        agreement = interpolation.agreement(settings)
    with clock.step("fusing the mesh of a room"):
        fused = meshes.fuse_sequences(settings)
    story = story_of(settings, stage1, runs, before)
    made = footer(
        "mvdiff quickstart depth",
        settings,
        f"{settings.base}, {settings.stage1_steps} steps further; weights {pipeline.base.weights_hash[:12]}",
        clock,
    )
    page.write_report(settings, scored, agreement, page.charts(runs, stage1, before), fused, story, made)
    curves = {run.name: run.curves for run in (*stage1, *runs)}
    write_results(settings, clock, scores=scored, interpolation=agreement, before=before, curves=curves)
    page.print_scores(scored, agreement)
    for line in story:
        clock.console.print(line)
    clock.console.print(f"{clock.total:.0f} s; open {settings.out / 'report.html'}")
    return settings.out / "report.html"


def story_of(
    settings: DepthSettings, stage1: Sequence[Run], runs: Sequence[Run], before: Mapping[str, float]
) -> list[str]:
    """Say which weights made the frames, and how far the trainings from scratch came."""
    steps, values = runs[0].curves["val/overlap_psnr"]
    start, end, losses = before["val/overlap_psnr"], values[-1], [before["val/loss"], runs[0].curves["val/loss"][1][-1]]
    frame_losses = stage1[0].curves["val/loss"][1]
    scratch = (
        f"From scratch, on {settings.rooms - settings.test_rooms} rooms: stage 1 takes the held-out loss of a base "
        f"that knew no depth from {frame_losses[0]:.3f} to {frame_losses[-1]:.3f} in {settings.stage1_steps} steps; "
        f"stage 2 takes the overlap PSNR of validation key frames from {start:.1f} to {end:.1f} dB and their held-out "
        f"loss from {losses[0]:.4f} to {losses[1]:.4f} in {steps[-1]} steps."
    )
    if len(runs) == 1:
        return [
            f"The frames were made with the packaged base, trained further here on single frames for "
            f"{settings.stage1_steps} steps, and with attention and image conditions trained here from scratch.",
            scratch,
        ]
    return [
        f"The frames were made with packaged weights: the base, trained further here on single frames for "
        f"{settings.stage1_steps} steps, and the attention and image conditions, which the same config made with more "
        f"steps, for {settings.continue_steps}: minutes are too few to train them from scratch.",
        scratch,
    ]
