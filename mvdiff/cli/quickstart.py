"""`mvdiff quickstart`: toy data, training, samples, scores and a report, for each task."""

import argparse
import os

from mvdiff.cli.options import add_settings, settings_of
from mvdiff.recipes.settings import DepthSettings, OutpaintSettings, PanoramaSettings

SETTINGS = {None: PanoramaSettings, "depth": DepthSettings, "outpaint": OutpaintSettings}


def add_parser(subparsers) -> None:
    """Add the `quickstart` command; its options are the fields of its settings."""
    parser = subparsers.add_parser(
        "quickstart",
        help="toy data, training, samples, scores and a report in minutes, without a GPU",
        description="Make a toy world, train correspondence-aware attention on the packaged toy base, generate "
        "panoramas with and without it, score both, and write report.html.",
    )
    add_settings(parser, SETTINGS[None])
    tasks = parser.add_subparsers(dest="task", metavar="TASK", title="other tasks")
    depth = tasks.add_parser(
        "depth",
        help="frames of rooms from depth and poses, and the frames between them",
        description="Make walks through toy rooms, train both stages of the depth task on the packaged weights, "
        "generate key frames with and without correspondence-aware attention and the frames between them, score them, "
        "and write report.html.",
    )
    add_settings(depth, SETTINGS["depth"])
    outpaint = tasks.add_parser(
        "outpaint",
        help="panoramas around a given view",
        description="Make a toy world, train attention on the packaged toy inpainting base, continue held-out "
        "views all around with and without attention, score whether the given pixels come back and whether the "
        "other views continue them, and write report.html.",
    )
    add_settings(outpaint, SETTINGS["outpaint"])


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    settings = settings_of(args, SETTINGS[args.task])
    # Threads that wait for each other sleep: toy networks are done in less time than spinning threads burn. The OpenMP
    # library reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mvdiff.cli.train import run_trainer
    from mvdiff.recipes.depth import DepthRecipe
    from mvdiff.recipes.outpaint import OutpaintRecipe
    from mvdiff.recipes.panorama import PanoramaRecipe
    from mvdiff.recipes.runner import run_recipe

    recipe = {None: PanoramaRecipe, "depth": DepthRecipe, "outpaint": OutpaintRecipe}[args.task]
    run_recipe(recipe(settings), run_trainer)
    return 0
