"""Score samples in one pass over the generated views and one over the reference.

A metric that cannot be computed is reported as `{"missing": reason}` and does not affect the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvdiff.eval.checks import DEFAULT_METRICS, planned
from mvdiff.eval.deviations import deviations, unchecked
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.image_folder import open_folder
from mvdiff.eval.metric_specs import MetricSpec
from mvdiff.eval.protocol import Protocol
from mvdiff.eval.provenance import described, run_record
from mvdiff.eval.scoring import Progress, Scoring
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.shortcomings import left_out
from mvdiff.eval.sources import FolderSource, PlainSource, Source
from mvdiff.geometry.cameras import Rig

SCHEMA_VERSION = 2


def evaluate(
    generated: str | Path | Source,
    reference: str | Path | Source | None = None,
    metrics: Sequence[MetricSpec] = DEFAULT_METRICS,
    settings: EvaluationSettings | None = None,
    rig: Rig | None = None,
    progress: Progress | None = None,
    num_workers: int = 0,
    distributed: bool = False,
    protocol: Protocol | None = None,
    cache: FeatureCache | None = None,
    group: Any = None,
) -> dict[str, Any]:
    """Score generated samples.

    Args:
        generated: Folder of samples (in this package's layout or that of the 2023 release), folder of images (each a
            sample of one view), or a `Source`. In a single process, any object with `__iter__` and `describe` works,
            also as the reference.
        reference: Ground truth: a folder of samples, of which `<i>_natural.png` is read if present (2023 release), or
            a `Source`, for example from `mvdiff.eval.sources.source_from_config`. None uses the `<i>_natural.png`
            beside the generated views if present; otherwise metrics that need a reference are missing.
        metrics: Metrics to compute, see `MetricSpec` and `mvdiff.eval.metrics`.
        settings: None: the paper's protocol.
        rig: Cameras of folders in the layout of the 2023 release; None: the paper's ring of 8.
        progress: Called after each sample with ("generated" or "reference", sample id, number of samples); the number
            is 0 if unknown.
        num_workers: Processes that prefetch images; 0 reads them in this process.
        distributed: Split the samples among the processes of `torch.distributed`. All of them must call this function,
            and each returns the results of all samples.
        protocol: Protocol that sets metrics and settings and with which the samples are compared, see
            `mvdiff.eval.protocol_files.read_protocol`. `metrics` may be left out.
        cache: Keeps the features of images on disk; numbers are the same without it.
        group: Process group for `distributed`, which exchanges CPU tensors (see `mvdiff.eval.processes`); None: the
            default one.

    Returns:
        `{"protocol": {"id", "hash", "values"}, "generated": ..., "reference": ..., "metrics": {name: result or
        {"missing": reason}}, "pairing": ids that only one side has, "left_out", "deviations" and "unchecked":
        sentences, "columns": ..., "settings": ..., "run": ...}`, serialisable as JSON. `generated` and `reference` hold
        the hashes of their images and geometry, and of the panoramas that a metric read. For the entries of results and
        columns see `mvdiff.eval.metric.Result` and `mvdiff.eval.metric.Column`.

    Raises:
        ValueError: A metric or setting is wrong, there is no complete sample, two samples have one id, or `distributed`
            is set for an object that is not a `Source`.
        FileNotFoundError: A folder does not exist.
    """
    start = time.monotonic()
    specs, settings = planned(metrics, settings, protocol)
    source = open_folder(generated, rig) if isinstance(generated, str | Path) else generated
    source = _as_source(source, "generated", distributed)
    if reference is None and isinstance(source, FolderSource) and source.has_natural():
        truth = FolderSource(source.root, rig, natural=True)
    else:
        truth = _open_reference(reference, rig)
    truth = None if truth is None else _as_source(truth, "reference", distributed)
    scoring = Scoring(specs, settings, distributed, protocol, cache, group)
    scoring.run(source, False, progress, num_workers)
    _need_samples(source)
    broken = None if truth is None else scoring.run(truth, True, progress, num_workers)
    return _results(source, truth, broken, scoring, time.monotonic() - start)


def evaluate_each(
    generated: Mapping[str, str | Path | Source],
    reference: str | Path | Source | None,
    metrics: Sequence[MetricSpec],
    settings: EvaluationSettings | None,
    protocol: Protocol | None = None,
    cache: FeatureCache | None = None,
) -> dict[str, dict[str, Any]]:
    """Score several methods against one reference; return what `evaluate` returns, by method. See `scored_each`."""
    return dict(scored_each(generated, reference, metrics, settings, protocol, cache))


def scored_each(
    generated: Mapping[str, str | Path | Source],
    reference: str | Path | Source | None,
    metrics: Sequence[MetricSpec],
    settings: EvaluationSettings | None,
    protocol: Protocol | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    num_workers: int = 0,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score several methods against one reference, which is read and measured once; yield each as soon as it is scored.

    Args:
        generated: Samples by method.
        reference: See `evaluate`; None: there is none.
        metrics: See `evaluate`.
        settings: See `evaluate`.
        protocol: See `evaluate`.
        cache: See `evaluate`.
        progress: See `evaluate`; for generated samples, it gets the name of the method in place of "generated".
        num_workers: See `evaluate`.

    Yields:
        The method, and what `evaluate` returns.

    Raises:
        ValueError: See `evaluate`.
        FileNotFoundError: See `evaluate`.
    """
    sources = {
        name: open_folder(one) if isinstance(one, str | Path) else _as_source(one, name, distributed=False)
        for name, one in generated.items()
    }
    specs, settings = planned(metrics, settings, protocol)
    scoring, truth, broken = Scoring(specs, settings, False, protocol, cache), None, None
    if reference is not None:
        truth = _as_source(_open_reference(reference), "reference", distributed=False)
        broken = scoring.run(truth, True, progress, num_workers)
    measured = scoring.state()
    for name, source in sources.items():
        start = time.monotonic()
        scoring.set_back(*measured)
        named = progress and (lambda _, sample_id, total, name=name: progress(name, sample_id, total))
        scoring.run(source, False, named, num_workers)
        _need_samples(source)
        yield name, _results(source, truth, broken, scoring, time.monotonic() - start)


def contents(source: Source, num_workers: int = 0) -> dict[str, Any]:
    """Read a source and describe it as results do, with the hashes of what it holds, without measuring anything.

    Args:
        source: Samples.
        num_workers: See `evaluate`.

    Raises:
        ValueError: See `evaluate`.
    """
    Scoring({}, EvaluationSettings(device="cpu"), distributed=False).run(source, False, None, num_workers)
    return described(source)


def _need_samples(source: Source) -> None:
    if not source.describe()["num_samples"]:
        raise ValueError(f"generated must hold at least one readable sample; got none, in {source.describe()}.")


def _results(
    source: Source, truth: Source | None, broken: str | None, scoring: Scoring, seconds: float
) -> dict[str, Any]:
    has_reference = truth is not None and not broken
    results = {
        "schema_version": SCHEMA_VERSION,
        "protocol": scoring.protocol_record(),
        "generated": described(source),
        "reference": described(truth) if has_reference else {"missing": broken} if broken else None,
        "metrics": scoring.results(),
        "pairing": scoring.pairing() if has_reference else None,
        "columns": {
            column.name: {key: value for key, value in asdict(column).items() if key != "name"}
            for metric in scoring.specs
            for column in metric.columns
        },
        "settings": asdict(scoring.settings),
        "run": run_record(scoring.device, seconds),
    }
    results |= {"left_out": left_out(results), "deviations": [], "unchecked": []}
    if scoring.protocol is not None:
        sides = {"generated": source.tally.seen, "reference": truth.tally.seen if has_reference else {}}
        found = {side: {name: sample.deviations for name, sample in seen.items()} for side, seen in sides.items()}
        seeds = {name: sample.seed for name, sample in source.tally.seen.items()}
        results["deviations"] = deviations(scoring.protocol, results, found, truth)
        results["unchecked"] = unchecked(scoring.protocol, results, seeds)
    return results


def _open_reference(reference: str | Path | Source | None, rig: Rig | None = None) -> Source | None:
    if isinstance(reference, str | Path):
        folder = open_folder(reference, rig)
        return FolderSource(folder.root, rig, natural=True) if folder.has_natural() else folder
    return reference


def _as_source(source: Any, name: str, distributed: bool) -> Source:
    if isinstance(source, Source):
        return source
    if distributed:
        raise ValueError(f"{name} must be a folder or a Source if distributed; got {type(source).__name__}.")
    return PlainSource(source)
