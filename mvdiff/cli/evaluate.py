"""`mvdiff evaluate`: score sample folders."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed
from mvdiff.cli.mistakes import did_you_mean
from mvdiff.eval.metrics import metric_names
from mvdiff.eval.settings import EvaluationSettings, SettingError

_ONLY = {"thing_colours": " (from Python only)"}
_SAID = {"deviations": "deviation", "unchecked": "not checked"}


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
    "init_args": {...}} (default: fid, inception_score, clip_score, overlap_psnr, overlap_chance, overlap_zncc,
    border_ratio, sharpness)"""
    rig: Path | None = None
    """JSON file with the cameras, in the format of the entry "rig" in sample.json; needed for sample folders of the
    2023 release, which store no cameras"""
    num_workers: int = 2
    """processes that read images; 0 reads in the main process, for containers with little shared memory"""
    protocol: str | None = None
    """protocol that sets metrics and settings and with which samples and results are compared: an id (mvdiff protocols
    lists them), or a YAML file of your own"""
    manifest: Path | None = None
    """JSON file of hashes that names the reference; written if it does not exist, else the reference must have these"""
    cache: Path | None = None
    """folder that keeps what the networks make of each image: a killed run continues, and a reference is measured once
    for all methods; numbers are the same without it"""
    strict: bool = False
    """exit with status 3 if anything is missing or left out, if a number is not of all samples, if the two sides differ
    in number or in their views, or if anything deviates from --protocol or --manifest"""

    def __post_init__(self) -> None:
        if self.reference is not None and self.config is not None:
            raise ArgumentTypeError("only one of --reference and --config may be given")
        if self.generated is None and self.reference is None and self.config is None:
            raise ArgumentTypeError("one of --generated, --reference and --config must be given")
        if self.split != "test" and self.config is None:
            raise ArgumentTypeError(f"--split {self.split} needs --config")
        if self.manifest is not None and self.reference is None and self.config is None:
            raise ArgumentTypeError("--manifest names the reference and needs --reference or --config")
        if self.num_workers < 0:
            raise ArgumentTypeError(f"--num_workers must be at least 0; got {self.num_workers}")
        for metric in self.metrics or ():
            if isinstance(metric, str) and "." not in metric and metric not in metric_names():
                close = did_you_mean(metric, metric_names())
                raise ArgumentTypeError(f"--metrics must be some of {', '.join(metric_names())}; got {metric!r}{close}")


def run(options: EvaluateOptions, settings: EvaluationSettings, words: Sequence[str] = ()) -> int:
    """Score, print the table, write the JSON; return the exit status.

    Under torchrun each process reads and measures its share of the samples, and the first one reports.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run(options, settings, words, distributed=False)
    from torch import distributed as dist

    dist.init_process_group("gloo")  # what metrics gather lies in CPU memory
    try:
        return _run(options, settings, words, distributed=True)
    finally:
        dist.destroy_process_group()


def _run(options: EvaluateOptions, settings: EvaluationSettings, words: Sequence[str], distributed: bool) -> int:
    from mvdiff.cli.out_files import check_folder, check_no_sample_file, check_out
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.data.importing.suggest import import_command
    from mvdiff.eval.feature_cache import FeatureCache
    from mvdiff.eval.provenance import command_line
    from mvdiff.eval.results_file import write_results
    from mvdiff.eval.runner import DEFAULT_METRICS, evaluate
    from mvdiff.eval.shortcomings import left_out, shortcomings
    from mvdiff.eval.table import results_table
    from mvdiff.eval.text_table import terminal_width
    from mvdiff.files.writing import check_apart

    if options.out is not None:
        check_out(options.out)
        check_apart("--out", options.out, {"--rig": options.rig, "--config": options.config})
        check_no_sample_file(options.out)
    protocol, settings, split = _protocol(options, settings, words)
    metrics = options.metrics or DEFAULT_METRICS if protocol is None else protocol.metrics
    manifest = _manifest(options)
    if options.cache is not None:
        check_folder(options.cache, "--cache")
        check_apart("--cache", options.cache, {"--out": options.out, "--rig": options.rig}, around=False)
        inputs = {"--generated": options.generated, "--reference": options.reference}
        check_apart("--cache", options.cache, inputs, inside=True)
    cache = None if options.cache is None else FeatureCache(options.cache)
    rig = read_rig(options.rig)
    generated, reference = _sources(options, rig, split)
    _check(options, metrics, settings, generated, reference)
    first = int(os.environ.get("RANK", "0")) == 0 or not distributed
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def advance(which: str, sample_id: str, total: int) -> None:
            if which not in tasks:
                tasks[which] = bar.add_task(which, total=total)
            bar.advance(tasks[which])

        progress = advance if first else None
        how = (metrics, settings, rig, progress, options.num_workers, distributed, protocol)
        results = evaluate(generated, reference, *how, cache=cache)
    results["run"]["command"] = command_line(["mvdiff", "evaluate", *words])
    of_manifest = _of_manifest(options, manifest, results, first)
    unwritten = manifest is None and bool(of_manifest)
    results["deviations"] += of_manifest
    computed = any("value" in entry for entry in results["metrics"].values())
    short = shortcomings(results) if options.strict else []
    cache_failed = None if cache is None else cache.failed
    status = UNFINISHED if short or not computed or unwritten or cache_failed else 0
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
    for name in ("deviations", "unchecked"):
        for line in results[name]:
            print(f"{_SAID[name]}: {line}")
    _say_what_was_done(options, results, words)
    if unwritten:
        print(f"mvdiff evaluate: error: --manifest {options.manifest} was not written.", file=sys.stderr)
    if not computed:
        print("mvdiff evaluate: error: no metric could be computed.", file=sys.stderr)
    elif short:
        print(f"mvdiff evaluate: error: --strict finds {plural(len(short), 'shortcoming')}:", file=sys.stderr)
        print("\n".join(short), file=sys.stderr)
    if cache_failed:
        print(f"mvdiff evaluate: error: --cache {cache_failed}", file=sys.stderr)
    return status


def _protocol(
    options: EvaluateOptions, settings: EvaluationSettings, words: Sequence[str]
) -> tuple[Any, EvaluationSettings, str]:
    """Return the protocol or None, the settings under it, and the split to read."""
    from mvdiff.eval.protocol import apply_protocol, check_split
    from mvdiff.eval.protocol_files import read_protocol

    if options.protocol is None:
        return None, settings, options.split
    protocol = read_protocol(options.protocol)
    typed_names = {word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    settings = apply_protocol(protocol, settings, options.metrics, typed_names)
    check_split(protocol, options.split, typed_names)
    if protocol.data.manifest and options.manifest is None:
        raise SettingError(
            f"--protocol {protocol.id} needs --manifest FILE, which names the reference by its content; a new file is "
            "written."
        )
    return protocol, settings, protocol.data.split


def _manifest(options: EvaluateOptions) -> Mapping[str, Any] | None:
    """Read the manifest, if there is one; check that a new one can be written."""
    from mvdiff.cli.out_files import check_no_sample_file, check_out
    from mvdiff.eval.manifest import read_manifest
    from mvdiff.files.writing import check_apart

    if options.manifest is None:
        return None
    check_apart(
        "--manifest", options.manifest, {"--out": options.out, "--rig": options.rig, "--config": options.config}
    )
    if options.manifest.exists():
        return read_manifest(options.manifest)
    check_out(options.manifest, ".json", "--manifest")
    check_no_sample_file(options.manifest)
    return None


def _of_manifest(
    options: EvaluateOptions, manifest: Mapping[str, Any] | None, results: Mapping[str, Any], first: bool
) -> list[str]:
    """Compare the reference with the manifest, or write a new one; return deviations."""
    from mvdiff.eval.manifest import manifest_deviations, write_manifest

    if options.manifest is None:
        return []
    reference = results["reference"] or results["generated"]  # without --generated, the reference itself is scored
    if "images" not in reference:
        return [f"manifest {options.manifest.name}: the reference could not be read"]
    if manifest is not None:
        return [f"manifest {options.manifest.name}: {line}" for line in manifest_deviations(manifest, reference)]
    if reference.get("num_incomplete") or reference.get("num_unreadable"):
        return [f"manifest {options.manifest.name}: not written, since samples of the reference cannot be read"]
    if first:
        write_manifest(options.manifest, reference)
        print(
            f"{options.manifest}: names {plural(reference['num_samples'], 'sample')} of the reference by their content"
        )
    return []


# `Any` stands for Rig and Source: to show the help, jsonargparse would run an import under `if TYPE_CHECKING`.


def _sources(options: EvaluateOptions, rig: Any, split: str) -> tuple[Any, Any]:
    """Open the samples and the ground truth; without --generated, the ground truth stands for the samples."""
    from mvdiff.cli.config_files import open_data
    from mvdiff.eval.image_folder import open_folder

    reference = None if options.reference is None else open_folder(options.reference, rig)
    if options.config is not None:
        reference = open_data(options.config, split)
    if options.generated is None:
        return reference, None
    return open_folder(options.generated, rig), reference


def _check(
    options: EvaluateOptions, metrics: Sequence[Any], settings: EvaluationSettings, generated: Any, reference: Any
) -> None:
    """Raise SettingError for options that are wrong, would go unused, or lack another one."""
    from mvdiff.eval.checks import check_needs, check_used
    from mvdiff.eval.metric_specs import parse_specs
    from mvdiff.eval.sources import FolderSource

    try:
        specs = parse_specs(metrics)
    except ValueError as error:
        raise SettingError(f"--metrics: {error}") from error
    check_used(specs, settings)
    folders = [source for source in (generated, reference) if isinstance(source, FolderSource)]
    if options.metrics is not None:
        check_needs(specs, reference is not None or any(source.has_natural() for source in folders))
    if options.rig is not None and not any(source.needs_rig() for source in folders):
        raise SettingError("--rig is for samples of the 2023 release, which store no cameras; there are none here.")


def _say_what_was_done(options: EvaluateOptions, results: Mapping[str, Any], words: Sequence[str]) -> None:
    count = f"{plural(results['generated']['num_samples'], 'sample')} scored"
    if options.out is not None:
        done(f"{options.out}: {count}", typed("mvdiff", "report", options.out))
    else:
        done(f"{count}, nothing written", typed("mvdiff", "evaluate", *words, "--out", "results.json"))


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
        takes_words=True,
    ),
)
