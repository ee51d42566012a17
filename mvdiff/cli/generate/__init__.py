"""`mvdiff generate`: panoramas from prompts, or frames of scenes with depth, into sample folders; a file per task."""

import argparse

from mvdiff.cli.generate import dataset, depth, outpaint, panorama


def add_parser(subparsers) -> None:
    """Add the `generate` command and its tasks."""
    parser = subparsers.add_parser("generate", help="panoramas from prompts or around pictures, frames from depth")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for task in (panorama, outpaint, depth, dataset):
        task.add_parser(tasks)


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    prompts = getattr(args, "prompt", None) or ()
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("--prompt must say what is to be seen; got an empty text.")
    return args.run_task(args)
