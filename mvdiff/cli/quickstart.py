"""`mvdiff quickstart`: toy data, training, samples, scores and a report, for each task."""

from __future__ import annotations

import os

from mvdiff.cli.command import Command, done, typed
from mvdiff.cli.export import next_of_model
from mvdiff.recipes.settings import DepthSettings, OutpaintSettings, PanoramaSettings, RecipeSettings


def run_panorama(settings: PanoramaSettings) -> int:
    """Run the panorama quickstart; return the exit status."""
    return _run("panorama", settings)


def run_depth(settings: DepthSettings) -> int:
    """Run the depth quickstart; return the exit status."""
    return _run("depth", settings)


def run_outpaint(settings: OutpaintSettings) -> int:
    """Run the outpainting quickstart; return the exit status."""
    return _run("outpaint", settings)


def _run(task: str, settings: RecipeSettings) -> int:
    # Threads that wait for each other sleep: toy networks finish in less time than spinning threads burn. The OpenMP
    # library reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.train import run_trainer
    from mvdiff.files.writing import check_apart
    from mvdiff.recipes.depth import DepthRecipe
    from mvdiff.recipes.outpaint import OutpaintRecipe
    from mvdiff.recipes.panorama import PanoramaRecipe
    from mvdiff.recipes.runner import run_recipe

    check_folder(settings.out)
    pages = [name for name in ("report.html", "results.json") if (settings.out / name).exists()]
    if pages and not (settings.out / "data").is_dir():
        raise FileExistsError(
            f"--out must be new, empty or the folder of an earlier quickstart; got {settings.out}, which has "
            f"{pages[0]} and no data."
        )
    weights = {"--base": settings.base, "--init_adapter": settings.init_adapter or None}
    check_apart("--out", settings.out, weights)
    recipe = {"panorama": PanoramaRecipe, "depth": DepthRecipe, "outpaint": OutpaintRecipe}[task]
    run_recipe(recipe(settings), run_trainer)
    following = [typed("xdg-open", settings.out / "report.html")]
    following += [next_of_model(settings.init_adapter, task, settings.base)] if settings.init_adapter else []
    done(f"{settings.out}: models, samples, scores, report.html", *following)
    return 0


COMMANDS = (
    Command(
        name="quickstart",
        summary="toy data, training, panoramas, scores and a report in minutes, without a GPU",
        description="Make a toy world, train correspondence-aware attention on the packaged toy base, generate "
        "panoramas with and without it, and score both. It needs no GPU (two cores: 3 to 7 minutes). "
        "Writes data, models, samples, results.json and report.html into --out. "
        "--base mvdiff://toy-dit-base takes a transformer as base. "
        "`mvdiff quickstart depth` and `mvdiff quickstart outpaint` do the same for the other tasks.",
        example="mvdiff quickstart",
        settings=(PanoramaSettings,),
        run=run_panorama,
    ),
    Command(
        name="quickstart depth",
        summary="frames of rooms from depth and poses, and the frames between them",
        description="Render camera walks through toy rooms. Train stage 1 (the base, on single frames), once from a "
        "base without depth input and once from the packaged depth base. Then train stage 2 (attention across frames), "
        "once from scratch and once from the packaged weights. Generate key frames with and without "
        "correspondence-aware attention, then the frames between them, and score both. It needs no GPU (two cores: "
        "5 to 8 minutes). Writes data, models, samples, results.json and report.html into --out.",
        example="mvdiff quickstart depth --out quickstart-depth",
        settings=(DepthSettings,),
        run=run_depth,
    ),
    Command(
        name="quickstart outpaint",
        summary="panoramas around a given view",
        description="Make a toy world, train attention on the packaged toy inpainting base, extend one given view of "
        "each held-out room to a full panorama with and without attention, and score how well the given pixels are "
        "kept and how well the other views continue them. It needs no GPU (two cores: 3 to 6 minutes). Writes data, "
        "models, samples, results.json and report.html into --out.",
        example="mvdiff quickstart outpaint --out quickstart-outpaint",
        settings=(OutpaintSettings,),
        run=run_outpaint,
    ),
)
