"""The metrics of one run, fed with samples: failures, the state between methods, numbers and pairing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import distributed as dist

from mvdiff.eval.checks import custom_values
from mvdiff.eval.deviations import sample_deviations
from mvdiff.eval.feature_cache import Cached, FeatureCache
from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import MetricBuilder
from mvdiff.eval.processes import gather_objects
from mvdiff.eval.protocol import CUSTOM, Protocol, values_hash
from mvdiff.eval.sample import keyed_sample
from mvdiff.eval.settings import EvaluationSettings, SettingError
from mvdiff.eval.shortcomings import NO_REFERENCE
from mvdiff.eval.sources import SeenSample, Source, Tally

UNAVAILABLE = (ValueError, OSError, ImportError)
Progress = Callable[[str, str, int], None]


class Scoring:
    """The metrics of one run; a metric that fails is dropped with its reason while the others continue.

    Processes exchange their failures after each pass, so that all of them compute the same metrics. Arguments: see
    `mvdiff.eval.runner.evaluate`.
    """

    def __init__(
        self,
        specs: Mapping[type[SampleMetric] | SampleMetric, Mapping[str, Any]],
        settings: EvaluationSettings,
        distributed: bool,
        protocol: Protocol | None = None,
        cache: FeatureCache | None = None,
        group: Any = None,
    ) -> None:
        self.distributed, self.cache, self.group = distributed, cache, group
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
                built.process_group = group
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
        tallies, reasons, ids = zip(*self._gathered((part.tally, broken, own_ids)), strict=True)
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
                entry = result.to_json(self.sample_ids)
                lacks = [*entry.get("lacks", ()), *([f"{NO_REFERENCE}{reason}"] if reason else [])]
                out[name] = entry | ({"lacks": lacks} if lacks else {})
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
        parts = self._gathered(dict(failures))
        numbers = sorted({number for part in parts for number in part})
        return {number: min(part[number] for part in parts if number in part)[1] for number in numbers}

    def _gathered(self, value: Any) -> list[Any]:
        return gather_objects(value, self.distributed, self.group)

    def _rank(self) -> tuple[int, int]:
        return (dist.get_rank(), dist.get_world_size()) if self.distributed else (0, 1)


def _states(metric: SampleMetric) -> dict[str, Any]:
    """Copy a metric's states, except rows: later ones are stored behind them, so those that are there stay."""
    return {
        name: list(state) if name in metric.row_states else _copied(state)
        for name, state in metric.metric_state.items()
    }


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
