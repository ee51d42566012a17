"""`mvdiff evaluate`: score sample folders."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed
from mvdiff.cli.mistakes import did_you_mean
from mvdiff.eval.metrics import metric_names
from mvdiff.eval.settings import EvaluationSettings, SettingError

_ONLY = {"thing_colours": " (from Python only)"}


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Samples, ground truth and metrics."""

    generated: Path | None = None
    """folder of samples to score (default: score the ground truth itself)"""
    reference: Path | None = None
    """folder of samples that serve as ground truth"""
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
    """JSON file with the cameras, in the format of the entry "rig" in sample.json; needed for sample folders of the
    2023 release, which store no cameras"""
    num_workers: int = 2
    """processes that read images; 0 reads in the main process, for containers with little shared memory"""
    strict: bool = False
    """exit with status 3 if anything is missing or left out, or if samples and reference differ in number"""

    def __post_init__(self) -> None:
        if self.reference is not None and self.config is not None:
            raise ArgumentTypeError("only one of --reference and --config may be given")
        if self.generated is None and self.reference is None and self.config is None:
            raise ArgumentTypeError("one of --generated, --reference and --config must be given")
        if self.split != "test" and self.config is None:
            raise ArgumentTypeError(f"--split {self.split} needs --config")
        if self.num_workers < 0:
            raise ArgumentTypeError(f"--num_workers must be at least 0; got {self.num_workers}")
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
    from mvdiff.cli.out_files import check_no_sample_file, check_out
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.data.importing.suggest import import_command
    from mvdiff.eval.runner import PAPER_METRICS, evaluate, write_results
    from mvdiff.eval.shortcomings import left_out, shortcomings
    from mvdiff.eval.table import results_table
    from mvdiff.eval.text_table import terminal_width
    from mvdiff.files.writing import check_apart

    if options.out is not None:
        check_out(options.out)
        check_apart("--out", options.out, {"--rig": options.rig, "--config": options.config})
        check_no_sample_file(options.out)
    rig = read_rig(options.rig)
    generated, reference = _sources(options, rig)
    _check(options, settings, generated, reference)
    first = int(os.environ.get("RANK", "0")) == 0 or not distributed
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def advance(which: str, sample_id: str, total: int) -> None:
            if which not in tasks:
                tasks[which] = bar.add_task(which, total=total)
            bar.advance(tasks[which])

        progress = advance if first else None
        how = (options.metrics or PAPER_METRICS, settings, rig, progress, options.num_workers, distributed)
        results = evaluate(generated, reference, *how)
    computed = any("value" in entry for entry in results["metrics"].values())
    short = shortcomings(results) if options.strict else []
    status = UNFINISHED if short or not computed else 0
    if not first:
        return status
    if options.out is not None:
        write_results(results, options.out)
    print(results_table(results, terminal_width()))
    noted = [side for side in (results["generated"], results["reference"]) if side and "note" in side]
    if noted:
        print(f"{' and '.join(side['path'] for side in noted)}: {noted[0]['note']}")
    for side in (side for side in noted if side.get("import_as")):
        line = import_command(Path(side["path"]), side["import_as"])
        print(f"{side['path']}: to make samples of its images, with all metrics, type: {line}")
    for line in left_out(results):
        print(line)
    _say_what_was_done(options, results)
    if not computed:
        print("mvdiff evaluate: error: no metric could be computed.", file=sys.stderr)
    elif short:
        print(f"mvdiff evaluate: error: --strict finds {plural(len(short), 'shortcoming')}:", file=sys.stderr)
        print("\n".join(short), file=sys.stderr)
    return status


# `Any` stands for Rig and Source: to show the help, jsonargparse would run an import under `if TYPE_CHECKING`.


def _sources(options: EvaluateOptions, rig: Any) -> tuple[Any, Any]:
    """Open the samples and the ground truth; without --generated, the ground truth stands for the samples."""
    from mvdiff.cli.config_files import open_data
    from mvdiff.eval.image_folder import open_folder

    reference = None if options.reference is None else open_folder(options.reference, rig)
    if options.config is not None:
        reference = open_data(options.config, options.split)
    if options.generated is None:
        return reference, None
    return open_folder(options.generated, rig), reference


def _check(options: EvaluateOptions, settings: EvaluationSettings, generated: Any, reference: Any) -> None:
    """Raise SettingError for options that are wrong, would go unused, or lack another one."""
    from mvdiff.eval.checks import check_needs, check_used
    from mvdiff.eval.metric_specs import parse_specs
    from mvdiff.eval.runner import PAPER_METRICS
    from mvdiff.eval.sources import FolderSource
    from mvdiff.samples import is_complete

    try:
        specs = parse_specs(options.metrics or PAPER_METRICS)
    except ValueError as error:
        raise SettingError(f"--metrics: {error}") from error
    check_used(specs, settings)
    folders = [source for source in (generated, reference) if isinstance(source, FolderSource)]
    if options.metrics is not None:
        check_needs(specs, reference is not None or any(source.has_natural() for source in folders))
    if options.rig is not None and all(is_complete(path) for source in folders for path in source.complete):
        raise SettingError("--rig is for samples without cameras; every sample here has its own in sample.json.")


def _say_what_was_done(options: EvaluateOptions, results: Mapping[str, Any]) -> None:
    count = f"{plural(results['generated']['num_samples'], 'sample')} scored"
    folder = options.generated or options.reference
    if options.out is not None:
        done(f"{options.out}: {count}", typed("mvdiff", "report", options.out))
    elif folder is not None:
        again = typed("mvdiff", "evaluate", "--generated", folder, "--out", "results.json")
        done(f"{count}, nothing written", f"{again} to keep them")


COMMANDS = (
    Command(
        name="evaluate",
        summary="FID, Inception Score, CLIP score and overlap PSNR of sample folders",
        description="Score sample folders of mvdiff or of the 2023 release ({i}.png, {i}_natural.png, prompt.txt). "
        "Prints a table; with --out, also writes the results as JSON. In a plain folder of images, each image counts "
        "as a one-view sample. A metric that cannot be computed is reported as missing and the rest still run; if no "
        "metric could be computed, the exit status is 3. Metrics (explained in docs/evaluate.md): "
        f"{', '.join(name + _ONLY.get(name, '') for name in metric_names())}.",
        example="mvdiff evaluate --generated out --reference truth --out results.json",
        settings=(EvaluateOptions, EvaluationSettings),
        run=run,
    ),
)
