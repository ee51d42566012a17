"""The whole quickstart, step by step, with what each step took."""

from __future__ import annotations

from pathlib import Path

from mvdiff.quickstart.provenance import Clock, footer, write_results
from mvdiff.quickstart.settings import BASE, PACKAGED_CAA, Settings
from mvdiff.quickstart.training import RunTrainer


def run_quickstart(settings: Settings, run_trainer: RunTrainer) -> Path:
    """Make data, train, generate, score and report.

    Args:
        settings: What to do and how much of it.
        run_trainer: Runs `mvdiff fit|validate` with the given arguments.

    Returns:
        The path of `report.html`; `results.json`, samples, runs and data lie beside it.

    Raises:
        ValueError: Settings that cannot work.
        OSError: The folder cannot be written.
    """
    settings = settings.check()
    clock = Clock()
    from mvdiff.data.toyworld import write_toyworld
    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
    from mvdiff.quickstart import compared, methods, page, scores, training

    with clock.step(f"toy world: {settings.rooms} rooms, {settings.test_rooms} held out"):
        write_toyworld(
            settings.out / "data",
            rooms=settings.rooms,
            seed=settings.seed,
            test_rooms=settings.test_rooms,
            num_frames=0,
            num_workers=settings.num_workers,
        )
    with clock.step("base on the validation captions, before any training"):
        base_validation = training.validate_fresh(settings, run_trainer)
    with clock.step(f"training CAA from scratch, {settings.max_steps} steps"):
        runs = [training.train(settings, run_trainer, "from scratch", settings.max_steps, lr=1e-3)]
    if PACKAGED_CAA.is_dir() and settings.continue_steps:
        with clock.step(f"training the packaged CAA further, {settings.continue_steps} steps"):
            name, steps = "packaged, continued", settings.continue_steps
            runs.append(training.train(settings, run_trainer, name, steps, lr=2e-4, init_adapter=PACKAGED_CAA))
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(runs[-1].model)
    for method in compared.GENERATED:
        with clock.step(f"generating {settings.test_rooms} panoramas: {method}"):
            methods.generate(settings, pipeline, method)
    with clock.step("scoring"):
        methods.write_references(settings, pipeline)
        scored = scores.score_all(settings)
    story = _story(settings, runs)
    base = f"{BASE}, weights {pipeline.base.weights_hash[:12]}"
    page.write_report(
        settings, scored, runs, base_validation, story, footer("mvdiff quickstart", settings, base, clock)
    )
    write_results(settings, clock, scores=scored, curves={run.name: run.curves for run in runs})
    page.print_scores(scored)
    for line in story:
        clock.console.print(line)
    clock.console.print(f"{clock.total:.0f} s; open {settings.out / 'report.html'}")
    return settings.out / "report.html"


def _story(settings: Settings, runs: list) -> list[str]:
    """Say which weights made the panoramas."""
    steps, values = runs[0].curves["val/overlap_psnr"]
    scratch = (
        f"The curve from scratch ({settings.max_steps} steps on {settings.rooms - settings.test_rooms} rooms) reaches "
        f"{max(values):.1f} dB on the validation captions after {steps[values.index(max(values))]} steps."
    )
    if len(runs) == 1:
        return ["The panoramas were made with the attention trained here from scratch.", scratch]
    return [
        "The panoramas were made with the packaged attention weights, which the same config made with more steps, "
        f"trained further here for {settings.continue_steps} steps: minutes are too few to train them from scratch.",
        scratch,
    ]
