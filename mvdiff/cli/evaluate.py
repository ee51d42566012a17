"""`mvdiff evaluate`: score sample folders."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from mvdiff.eval.metrics import metric_names


def add_parser(subparsers) -> None:
    """Add the `evaluate` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="FID, Inception Score, CLIP score and overlap PSNR of sample folders",
        description="Score sample folders (or upstream's {i}.png, {i}_natural.png, prompt.txt). What cannot be "
        "computed is reported as missing, the rest still comes out.",
    )
    add = parser.add_argument
    add("--generated", type=Path, metavar="DIR", help="samples to score (left out: the ground truth itself is scored)")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--reference", type=Path, metavar="DIR", help="ground truth: folder of samples")
    config_help = "ground truth: the views of the data section of this run (repeat for overlays)"
    truth.add_argument("--config", action="append", metavar="YAML", help=config_help)
    add("--split", default="test", choices=("train", "val", "test"), help="split of --config (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the results as JSON")
    add(
        "--metrics",
        nargs="+",
        type=metric_spec,
        metavar="METRIC",
        help=f"what to compute, of {', '.join(metric_names())}; or a class path of your own, as my_module.MyMetric, or "
        '{"class_path": ..., "init_args": {...}} (default: the paper\'s four)',
    )
    add("--rig", type=Path, metavar="JSON", help="cameras of upstream's folders: a rig as in sample.json")
    add("--inception_weights", metavar="FILE", help="weights-inception-2015-12-05-6726825d.pth")
    add("--inception_hash", default="6726825d", metavar="HEX", help="start of its SHA-256 (default: %(default)s)")
    add("--clip_model", default="ViT-B-16", metavar="NAME", help="open_clip architecture or transformers folder")
    add("--clip_weights", metavar="FILE", help="weight file or open_clip tag (default: openai)")
    add("--toy_features", metavar="DIR", help="toy feature network (default: the packaged one)")
    add("--truth", metavar="JSON", help="what each view shows, by sample id, for caption_agreement")
    add(
        "--judge_heads", nargs="+", metavar="HEAD", help="heads of caption_agreement, e.g. object colour (default: all)"
    )
    add("--overlap_size", type=int, default=1024, help="image height for overlap PSNR, 0: as is (default: %(default)s)")
    add("--overlap_pairs", default="adjacent", choices=("adjacent", "overlapping"), help="(default: %(default)s)")
    add(
        "--overlap_depth_error",
        type=float,
        default=0.5,
        help="metres by which the depth of a compared pixel may be off, for samples with depth (default: %(default)s)",
    )
    add("--num_splits", type=int, default=10, help="splits of the Inception Score (default: %(default)s)")
    add(
        "--num_workers",
        type=int,
        default=2,
        help="processes that read images; 0 reads in the main process, for containers with little shared memory "
        "(default: %(default)s)",
    )
    add("--batch_size", type=int, default=32, help="images per forward pass (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of orders and resamples (default: %(default)s)")
    add("--num_resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")


def metric_spec(text: str) -> str | dict[str, Any]:
    """Read one of --metrics: a name, a class path, or JSON with class_path and init_args."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be JSON; got {text} ({error})") from None
    if "." not in text and text not in metric_names():
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(metric_names())})")
    return text


def run(args: argparse.Namespace) -> int:
    """Score, print the table, write the JSON; return the exit status.

    Under torchrun each process reads and measures its share of the samples, and the first one reports.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run(args, distributed=False)
    from torch import distributed as dist

    dist.init_process_group("gloo")  # what metrics gather lies in CPU memory
    try:
        return _run(args, distributed=True)
    finally:
        dist.destroy_process_group()


def _run(args: argparse.Namespace, distributed: bool) -> int:
    from rich.console import Console

    from mvdiff.cli.config_files import open_data
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.eval.runner import PAPER_METRICS, EvaluationSettings, evaluate, write_results
    from mvdiff.eval.table import results_table

    reference = args.reference
    if args.config:
        reference = open_data(args.config, args.split)
    generated = args.generated
    if generated is None:
        if reference is None:
            raise ValueError("--generated must be a folder of samples; got nothing. Give it, --reference or --config.")
        generated, reference = reference, None
    names = EvaluationSettings.__dataclass_fields__
    settings = EvaluationSettings(**{name: value for name, value in vars(args).items() if name in names})
    first = int(os.environ.get("RANK", "0")) == 0 or not distributed
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def advance(which: str, sample_id: str, total: int) -> None:
            if which not in tasks:
                tasks[which] = bar.add_task(which, total=total)
            bar.advance(tasks[which])

        progress = advance if first else None
        how = (args.metrics or PAPER_METRICS, settings, read_rig(args.rig), progress, args.num_workers, distributed)
        results = evaluate(generated, reference, *how)
    if not first:
        return 0
    if args.out is not None:
        write_results(results, args.out)
    Console().print(results_table(results))
    for problem in results["generated"].get("unreadable", []):
        print(f"left out {problem['folder']}: {problem['reason']}")
    return 0
