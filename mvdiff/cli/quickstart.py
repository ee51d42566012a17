"""`mvdiff quickstart`: the embedded default, end to end."""

import argparse
from dataclasses import fields
from pathlib import Path


def add_parser(subparsers) -> None:
    """Add the `quickstart` command; its options are the fields of `quickstart.settings.Settings`."""
    from mvdiff.quickstart.settings import Settings

    parser = subparsers.add_parser(
        "quickstart",
        help="toy data, training, panoramas, scores and a report in minutes, without a GPU",
        description="Make a toy world, train correspondence-aware attention on the packaged toy base, generate "
        "panoramas with and without it, score both, and write report.html.",
    )
    for field in fields(Settings):
        kind = Path if field.name == "out" else type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    from mvdiff.cli.train import run_trainer
    from mvdiff.quickstart.run import run_quickstart
    from mvdiff.quickstart.settings import Settings

    run_quickstart(Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)}), run_trainer)
    return 0
