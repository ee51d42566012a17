"""`mvdiff evaluate`: score sample folders."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mvdiff.cli.command import Command, done, plural, typed
from mvdiff.cli.mistakes import did_you_mean
from mvdiff.eval.metrics import metric_names
from mvdiff.eval.settings import EvaluationSettings

_ONLY = {"thing_colours": " (from Python only)"}


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Samples, ground truth and metrics."""

    generated: Path | None = None
    """folder of samples to score (default: score the ground truth itself)"""
    reference: Path | None = None
    """ground truth: folder of samples"""
    config: list[str] | None = None
    """ground truth instead of --reference: the data section of this YAML file, or of a packaged one (listed in
    mvdiff fit --help); repeat to combine files: later ones override earlier ones"""
    split: Literal["train", "val", "test"] = "test"
    """split of --config"""
    out: Path | None = None
    """JSON file that receives the results"""
    metrics: tuple[str | dict[str, Any], ...] | None = None
    """metrics to compute: names from the list above, class paths such as my_module.MyMetric, or {"class_path": ...,
    "init_args": {...}} (default: fid, inception_score, clip_score, overlap_psnr)"""
    rig: Path | None = None
    """JSON file with the cameras, in the format of `rig` in sample.json; needed for sample folders of the 2023 release,
    which store no cameras"""
    num_workers: int = 2
    """processes that read images; 0 reads in the main process, for containers with little shared memory"""

    def __post_init__(self) -> None:
        if self.reference is not None and self.config is not None:
            raise ArgumentTypeError("--reference and --config exclude each other")
        for metric in self.metrics or ():
            if isinstance(metric, str) and "." not in metric and metric not in metric_names():
                close = did_you_mean(metric, metric_names())
                raise ArgumentTypeError(f"--metrics must be some of {', '.join(metric_names())}; got {metric!r}{close}")


def run(options: EvaluateOptions, settings: EvaluationSettings) -> int:
    """Score, print the table, write the JSON; return the exit status.

    Under torchrun each process reads and measures its share of the samples, and the first one reports.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run(options, settings, distributed=False)
    from torch import distributed as dist

    dist.init_process_group("gloo")  # what metrics gather lies in CPU memory
    try:
        return _run(options, settings, distributed=True)
    finally:
        dist.destroy_process_group()


def _run(options: EvaluateOptions, settings: EvaluationSettings, distributed: bool) -> int:
    from rich.console import Console

    from mvdiff.cli.config_files import open_data
    from mvdiff.cli.out_files import check_no_sample_file, check_out
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.eval.runner import PAPER_METRICS, evaluate, write_results
    from mvdiff.eval.table import results_table
    from mvdiff.files.writing import check_apart

    if options.out is not None:
        check_out(options.out)
        check_apart("--out", options.out, {"--rig": options.rig, "--config": options.config})
        check_no_sample_file(options.out)
    reference = open_data(options.config, options.split) if options.config else options.reference
    generated = options.generated
    if generated is None:
        if reference is None:
            raise ValueError("--generated must be a folder of samples; got nothing. Give it, --reference or --config.")
        generated, reference = reference, None
    first = int(os.environ.get("RANK", "0")) == 0 or not distributed
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def advance(which: str, sample_id: str, total: int) -> None:
            if which not in tasks:
                tasks[which] = bar.add_task(which, total=total)
            bar.advance(tasks[which])

        progress, rig = advance if first else None, read_rig(options.rig)
        how = (options.metrics or PAPER_METRICS, settings, rig, progress, options.num_workers, distributed)
        results = evaluate(generated, reference, *how)
    if not first:
        return 0
    if options.out is not None:
        write_results(results, options.out)
    Console().print(results_table(results))
    for problem in results["generated"].get("unreadable", []):
        print(f"left out {problem['folder']}: {problem['reason']}")
    count = f"{plural(results['generated']['num_samples'], 'sample')} scored"
    folder = options.generated or options.reference
    if options.out is not None:
        done(f"{options.out}: {count}", typed("mvdiff", "report", options.out))
    elif folder is not None:
        again = typed("mvdiff", "evaluate", "--generated", folder, "--out", "results.json")
        done(f"{count}, nothing written", f"{again} to keep them")
    return 0


COMMANDS = (
    Command(
        name="evaluate",
        summary="FID, Inception Score, CLIP score and overlap PSNR of sample folders",
        description="Score sample folders of mvdiff or of the 2023 release ({i}.png, {i}_natural.png, prompt.txt). "
        "Prints a table; with --out, also writes the results as JSON. A metric that cannot be computed is reported as "
        "missing; the others are still computed. Metrics (explained in docs/evaluate.md): "
        f"{', '.join(name + _ONLY.get(name, '') for name in metric_names())}.",
        example="mvdiff evaluate --generated out --reference truth --out results.json",
        settings=(EvaluateOptions, EvaluationSettings),
        run=run,
    ),
)
