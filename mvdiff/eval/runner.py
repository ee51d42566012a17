"""Score samples in one pass over the generated views and one over the reference.

A metric that cannot be computed is reported as `{"missing": reason}` and does not affect the others.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from mvdiff.eval.checks import DEFAULT_METRICS, custom_values, planned
from mvdiff.eval.deviations import deviations, sample_deviations, unchecked
from mvdiff.eval.feature_cache import Cached, FeatureCache
from mvdiff.eval.image_folder import open_folder
from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import MetricBuilder, MetricSpec
from mvdiff.eval.processes import gather_objects
from mvdiff.eval.protocol import CUSTOM, Protocol, values_hash
from mvdiff.eval.provenance import described, run_record
from mvdiff.eval.sample import keyed_sample
from mvdiff.eval.settings import EvaluationSettings, SettingError
from mvdiff.eval.shortcomings import left_out
from mvdiff.eval.sources import FolderSource, PlainSource, SeenSample, Source, Tally
from mvdiff.geometry.cameras import Rig

SCHEMA_VERSION = 2
UNAVAILABLE = (ValueError, OSError, ImportError)
Progress = Callable[[str, str, int], None]


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
    scoring = _Scoring(specs, settings, distributed, protocol, cache)
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
    scoring, truth, broken = _Scoring(specs, settings, False, protocol, cache), None, None
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
    _Scoring({}, EvaluationSettings(device="cpu"), distributed=False).run(source, False, None, num_workers)
    return described(source)


def _need_samples(source: Source) -> None:
    if not source.describe()["num_samples"]:
        raise ValueError(f"generated must hold at least one readable sample; got none, in {source.describe()}.")


def _results(
    source: Source, truth: Source | None, broken: str | None, scoring: _Scoring, seconds: float
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


class _Scoring:
    """The metrics of one run; a metric that fails is dropped with its reason while the others continue.

    Processes exchange their failures after each pass, so that all of them compute the same metrics.
    """

    def __init__(
        self,
        specs: Mapping[type[SampleMetric] | SampleMetric, Mapping[str, Any]],
        settings: EvaluationSettings,
        distributed: bool,
        protocol: Protocol | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.distributed, self.cache = distributed, cache
        self.specs, self.init_args, self.settings, self.protocol = list(specs), specs, settings, protocol
        self.device = _device(settings.device, self._rank()[0])
        self.missing: dict[int, str] = {}
        self.no_reference: dict[int, str] = {}
        self.metrics: dict[int, SampleMetric] = {}
        self.sample_ids: dict[int, str] = {}
        self.reference_ids: dict[int, str] = {}
        builder = MetricBuilder(asdict(replace(settings, device=self.device)))
        failures: dict[int, tuple[str, str]] = {}
        for number, (metric, init_args) in enumerate(specs.items()):
            try:
                built = metric if isinstance(metric, SampleMetric) else builder.build(metric, init_args)
                built.reset()
                built.distributed_available_fn = partial(bool, distributed)
                self.metrics[number] = built
            except SettingError:
                raise
            except UNAVAILABLE as error:
                failures[number] = "", str(error)
        self._drop(failures)
        if cache is not None:
            cache.device = torch.device(self.device).type
        for metric in self.metrics.values():
            if isinstance(metric.network, Cached):
                metric.network.cache = cache

    def run(self, source: Source, real: bool, progress: Progress | None, num_workers: int) -> str | None:
        """Feed every sample of a source to every metric; return the reason if a reference cannot be read completely.

        No number uses half a reference: if reading it or a metric on it fails, the metric's state from before the
        reference is restored.
        """
        before = {number: _states(metric) for number, metric in self.metrics.items()}
        if self.cache is not None:
            self.cache.refresh()
        part = source.part(*self._rank(), num_workers)
        failures: dict[int, tuple[str, str]] = {}
        own_ids: list[str] = []
        broken = None
        try:
            self._feed(part, real, progress, failures, own_ids)
        except UNAVAILABLE as error:
            if not real:
                raise
            broken = str(error)
        finally:
            if self.cache is not None:
                self.cache.flush()
        tallies, reasons, ids = zip(*gather_objects((part.tally, broken, own_ids), self.distributed), strict=True)
        source.tally = Tally.merged(tallies)
        sample_ids = list(chain.from_iterable(ids))
        if repeated := sorted(name for name, count in Counter(sample_ids).items() if count > 1):
            where = source.describe().get("path", "the reference" if real else "the samples")
            raise ValueError(f"sample ids must be unique; got {', '.join(map(repr, repeated))} twice, in {where}.")
        broken = next((reason for reason in reasons if reason), None)
        named = {keyed_sample(name): name for name in sorted(sample_ids)}
        if not real:
            self.sample_ids = named
            self._drop(failures)
            return None
        self.reference_ids = {} if broken else named
        reasons_by_number = self._agreed(failures)
        for number in self.metrics if broken else reasons_by_number:
            self.no_reference[number] = broken or reasons_by_number[number]
            _set_states(self.metrics[number], before[number])
        return broken

    def _feed(
        self,
        part: Source,
        real: bool,
        progress: Progress | None,
        failures: dict[int, tuple[str, str]],
        sample_ids: list[str],
    ) -> None:
        which = "reference" if real else "generated"
        for sample in part:
            whole = sample.whole_views()
            for number, metric in self.metrics.items():
                if number in failures:
                    continue
                seen = sample if metric.reads_covered else whole
                if seen is None:
                    continue
                try:
                    metric.update(seen, real)
                except UNAVAILABLE as error:
                    failures[number] = sample.sample_id, f"{error} (at {which} sample {sample.sample_id!r})"
            sample_ids.append(sample.sample_id)
            found = {} if self.protocol is None else sample_deviations(self.protocol, sample, real)
            hashes = sample.pixel_hashes, sample.geometry_hash, sample.panorama_hash
            views = tuple(sample.images_uint8.shape[-2:]), sample.is_whole.tolist()
            seen = SeenSample(*hashes, *views, sample.prompts, sample.seed, found)
            part.tally.seen[sample.sample_id] = seen
            if progress is not None:
                progress(which, sample.sample_id, len(part))

    def state(self) -> tuple[dict[int, SampleMetric], dict[int, dict[str, Any]], dict[int, str]]:
        """Return the metrics that are left, what they have gathered, and why the others are missing."""
        return dict(self.metrics), {number: _states(one) for number, one in self.metrics.items()}, dict(self.missing)

    def set_back(
        self, metrics: dict[int, SampleMetric], gathered: dict[int, dict[str, Any]], missing: dict[int, str]
    ) -> None:
        """Go back to an earlier `state`."""
        self.metrics, self.missing, self.sample_ids = dict(metrics), dict(missing), {}
        for number, metric in metrics.items():
            metric.reset()
            _set_states(metric, gathered[number])

    def results(self) -> dict[str, Any]:
        """Return every requested number, or the reason why it is missing."""
        out: dict[str, Any] = {}
        for number in range(len(self.specs)):
            reason = self.no_reference.get(number)
            for name, result in self._computed(number).items():
                if isinstance(result, Exception):
                    out[name] = {"missing": f"reference: {reason}" if reason else str(result)}
                    continue
                if not math.isfinite(result.value):
                    out[name] = {"missing": f"the number is not finite; got {result.value}."}
                    continue
                out[name] = result.to_json(self.sample_ids) | ({"note": f"no reference: {reason}"} if reason else {})
        return out

    def protocol_record(self) -> dict[str, Any]:
        """Return id, hash and values of the protocol; without one, metrics and the settings that they take."""
        if self.protocol is not None:
            return {"id": self.protocol.id, "hash": self.protocol.hash(), "values": self.protocol.values()}
        values = custom_values(self.init_args, self.settings)
        return {"id": CUSTOM, "hash": values_hash(values), "values": values}

    def pairing(self) -> dict[str, Any]:
        """Return how many samples both sides have, and the ids of those that only one side has."""
        own, real = set(self.sample_ids.values()), set(self.reference_ids.values())
        return {
            "num_paired": len(own & real),
            "only_generated": sorted(own - real),
            "only_reference": sorted(real - own),
        }

    def _computed(self, number: int) -> dict[str, Any]:
        names = [column.name for column in self.specs[number].columns]
        if number in self.missing:
            return dict.fromkeys(names, ValueError(self.missing[number]))
        try:
            results = self.metrics[number].compute()
            return {name: results[name] for name in names}
        except (ValueError, torch.linalg.LinAlgError) as error:
            return dict.fromkeys(names, error)

    def _drop(self, failures: Mapping[int, tuple[str, str]]) -> None:
        for number, reason in self._agreed(failures).items():
            self.missing[number] = reason
            self.metrics.pop(number, None)

    def _agreed(self, failures: Mapping[int, tuple[str, str]]) -> dict[int, str]:
        """Return, for every metric that failed in any process, the reason at the first sample by id."""
        parts = gather_objects(dict(failures), self.distributed)
        numbers = sorted({number for part in parts for number in part})
        return {number: min(part[number] for part in parts if number in part)[1] for number in numbers}

    def _rank(self) -> tuple[int, int]:
        return (dist.get_rank(), dist.get_world_size()) if self.distributed else (0, 1)


def _states(metric: SampleMetric) -> dict[str, Any]:
    """Copy a metric's states."""
    return {name: _copied(state) for name, state in metric.metric_state.items()}


def _set_states(metric: SampleMetric, states: Mapping[str, Any]) -> None:
    """Give a metric copies of states that `_states` returned."""
    for name, state in states.items():
        setattr(metric, name, _copied(state))


def _copied(state: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    return state.clone() if isinstance(state, torch.Tensor) else [part.clone() for part in state]


def _device(name: str, rank: int) -> str:
    try:
        kind = "cpu" if name == "auto" else torch.device(name).type
    except RuntimeError as error:
        raise SettingError(f"device must be auto, cpu or cuda; got {name!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device must be auto or cpu, since there is no usable CUDA device; got {name!r}.")
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return "cpu" if name == "auto" else name
    return f"cuda:{rank % torch.cuda.device_count()}"
