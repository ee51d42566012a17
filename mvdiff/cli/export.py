"""`mvdiff export CKPT --out DIR`: a training checkpoint becomes a model folder."""

import argparse
from pathlib import Path

from mvdiff.cli.opening import add_plugin_option


def add_parser(subparsers) -> None:
    """Add the `export` command."""
    parser = subparsers.add_parser(
        "export",
        help="turn a training checkpoint into a model folder",
        description="Write the trained weights of a checkpoint as a model folder: adapter, scheduler, views, "
        "prompt prefix, a model card and the name of the base, whose own weights stay where they are.",
        epilog="example: mvdiff export runs/pano/version_0/checkpoints/last.ckpt --out model",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a checkpoint that `mvdiff fit` wrote")
    add("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")
    add("--no_ema", action="store_true", help="take the last weights rather than their average")
    add("--overwrite", action="store_true", help="replace an earlier model folder")
    add("--results", type=Path, metavar="FILE", help="a results.json of `mvdiff test`, for the model card")
    add_plugin_option(parser)


def run(args: argparse.Namespace) -> int:
    """Export; return the exit status."""
    from mvdiff.pipelines.checkpoint import export_checkpoint

    info = export_checkpoint(args.checkpoint, args.out, not args.no_ema, args.results, args.overwrite)
    print(f"{args.out}: {info.title}")
    return 0
