"""`mvdiff quickstart`: the embedded default, end to end, and those of the other tasks, depth and outpainting."""

import argparse
from dataclasses import fields
from pathlib import Path


def add_parser(subparsers) -> None:
    """Add the `quickstart` command; its options are the fields of the settings of its task."""
    from mvdiff.quickstart.depth.settings import DepthSettings
    from mvdiff.quickstart.outpaint.settings import OutpaintSettings
    from mvdiff.quickstart.settings import Settings

    parser = subparsers.add_parser(
        "quickstart",
        help="toy data, training, samples, scores and a report in minutes, without a GPU",
        description="Make a toy world, train correspondence-aware attention on the packaged toy base, generate "
        "panoramas with and without it, score both, and write report.html.",
    )
    _add_settings(parser, Settings)
    tasks = parser.add_subparsers(dest="task", metavar="TASK", title="other tasks")
    depth = tasks.add_parser(
        "depth",
        help="frames of rooms from depth and poses, and the frames between them",
        description="Make walks through toy rooms, train both stages of the depth task on the packaged weights, "
        "generate key frames with and without correspondence-aware attention and the frames between them, score them, "
        "and write report.html.",
    )
    _add_settings(depth, DepthSettings)
    outpaint = tasks.add_parser(
        "outpaint",
        help="panoramas around a given view",
        description="Make a toy world, train attention on the packaged toy inpainting base, continue held-out "
        "views all around with and without attention, score whether the given pixels come back and whether the "
        "other views continue them, and write report.html.",
    )
    _add_settings(outpaint, OutpaintSettings)


def _add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    for field in fields(settings):
        kind = Path if field.name == "out" else type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    from mvdiff.cli.train import run_trainer
    from mvdiff.quickstart.depth.run import run_depth_quickstart
    from mvdiff.quickstart.depth.settings import DepthSettings
    from mvdiff.quickstart.outpaint.run import run_outpaint_quickstart
    from mvdiff.quickstart.outpaint.settings import OutpaintSettings
    from mvdiff.quickstart.run import run_quickstart
    from mvdiff.quickstart.settings import Settings

    task, settings = {
        None: (run_quickstart, Settings),
        "depth": (run_depth_quickstart, DepthSettings),
        "outpaint": (run_outpaint_quickstart, OutpaintSettings),
    }[args.task]
    task(settings(**{field.name: getattr(args, field.name) for field in fields(settings)}), run_trainer)
    return 0
