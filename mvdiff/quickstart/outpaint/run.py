"""The whole outpainting quickstart, step by step, with what each step took."""

from __future__ import annotations

from pathlib import Path

from mvdiff.quickstart.outpaint.settings import CONFIG, OutpaintSettings
from mvdiff.quickstart.provenance import Clock, footer, write_results
from mvdiff.quickstart.training import Run, RunTrainer, adapter_folder


def run_outpaint_quickstart(settings: OutpaintSettings, run_trainer: RunTrainer) -> Path:
    """Make data, train, continue given views and pictures, score and report.

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
    from mvdiff.models.backbone import load_backbone
    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
    from mvdiff.quickstart import compared, training
    from mvdiff.quickstart.outpaint import methods, page, scores

    packaged = adapter_folder(settings.adapter)
    base = load_backbone(settings.base)  # what is wrong with the settings shows before anything is made
    MVDiffusionOutpaintPipeline.check_base(base.unet, base.latent_channels)
    methods.check_picture(settings)
    with clock.step(f"toy world: {settings.rooms} rooms, {settings.test_rooms} held out"):
        write_toyworld(
            settings.out / "data",
            rooms=settings.rooms,
            seed=settings.seed,
            test_rooms=settings.test_rooms,
            num_frames=0,
            num_workers=settings.num_workers,
        )
    with clock.step("inpainting base on the validation rooms, before any training"):
        base_validation = training.validate_fresh(settings, run_trainer, CONFIG, settings.base)
    trained = {"config": CONFIG, "base": settings.base}
    with clock.step(f"training CAA from scratch, {settings.max_steps} steps"):
        runs = [training.train(settings, run_trainer, "from scratch", settings.max_steps, lr=1e-3, **trained)]
    if packaged is not None and settings.continue_steps:
        with clock.step(f"training the attention of {settings.adapter} further, {settings.continue_steps} steps"):
            name, steps = "continued", settings.continue_steps
            runs.append(training.train(settings, run_trainer, name, steps, 2e-4, packaged, **trained))
    pipeline = MVDiffusionOutpaintPipeline.from_pretrained(runs[-1].model)
    for method in compared.GENERATED:
        with clock.step(f"continuing the first view of {settings.test_rooms} rooms: {method}"):
            methods.generate(settings, pipeline, method)
    for method in methods.PICTURE_METHODS:
        with clock.step(f"continuing {settings.pictures} pictures: {method}"):
            methods.generate_around_pictures(settings, pipeline, method)
    with clock.step("scoring"):
        methods.write_references(settings, pipeline)
        scored = scores.score_all(settings)
    story = story_of(settings, runs)
    made = footer(
        "mvdiff quickstart outpaint", settings, f"{settings.base}, weights {pipeline.base.weights_hash[:12]}", clock
    )
    page.write_report(settings, scored, runs, base_validation, story, made)
    write_results(settings, clock, scores=scored, curves={run.name: run.curves for run in runs})
    page.print_scores(settings, scored)
    for line in story:
        clock.console.print(line)
    clock.console.print(f"{clock.total:.0f} s; open {settings.out / 'report.html'}")
    return settings.out / "report.html"


def story_of(settings: OutpaintSettings, runs: list[Run]) -> list[str]:
    """Say which weights made the panoramas, and how far the training from scratch came."""
    steps, values = runs[0].curves["val/overlap_psnr"]
    scratch = (
        f"The curve from scratch ({settings.max_steps} steps on {settings.rooms - settings.test_rooms} rooms) reaches "
        f"{max(values):.1f} dB on the validation rooms after {steps[values.index(max(values))]} steps."
    )
    if len(runs) == 1:
        return ["The panoramas were made with the attention trained here from scratch.", scratch]
    return [
        f"The panoramas were made with the attention weights of {settings.adapter}, trained further here on given "
        f"views for {settings.continue_steps} steps: minutes are too few to train them from scratch.",
        scratch,
    ]
