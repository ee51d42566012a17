"""Base classes of metrics: a `torchmetrics.Metric` over samples that declares its columns and requirements.

A metric is one class in one file, in `mvdiff/eval/metrics/` or in a user's module. `update(sample, real)` takes one
sample; `compute()` returns one `Result` per column. For a mean over samples, derive from `PerSampleMetric` and
implement `measure`. Other metrics store rows of numbers per sample with `add_rows`, `append` and `rows`. Rows are
synchronised across processes; a sample seen by several processes counts once. Rows are ordered by (sample id, view), so
that no number depends on the names or the order of folders.

Axes: S samples, N rows, W numbers per row.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mvdiff.eval.intervals import Interval, Statistic, interval, mean
from mvdiff.eval.processes import gather_tensors
from mvdiff.eval.row_storage import extend
from mvdiff.eval.sample import ScoredSample, keyed_sample
from mvdiff.eval.settings import check_resamples

OWN_SIZE = "the images' own size"
"""Part of the variant of a number that depends on the size of views, since they are not resized."""


class MissingMetricError(ValueError):
    """Raised if a number cannot be computed; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class Column:
    """One number of a metric.

    Attributes:
        name: Key in `results.json`.
        title: Heading in tables.
        unit: Unit, shown beside the title.
        higher_is_better: True or False; None if neither direction is better.
        digits: Number of decimals to show.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool | None = None
    digits: int = 2


@dataclass
class Result:
    """A number and how it was measured.

    Attributes:
        value: The number.
        model: Network or protocol that measured it.
        variant: Variant of the protocol.
        n: Counts, e.g. `{"num_images": 80}`.
        interval: 95% interval; its rule and, if there are enough samples, its ends stand in `results.json`.
        per_sample: Numbers of single samples, by `ScoredSample.key`.
        reference: The same number for the reference.
        ratio_to_reference: `value / reference`.
        weights_hash: SHA-256 of the network's weights, in hex.
        note: Caveat for the reader.
        lacks: Sentences on what the number lacks, each a reason for which `mvdiff evaluate --strict` fails.
        extra: Further entries for `results.json`.
    """

    value: float
    model: str
    variant: str
    n: dict[str, int]
    interval: Interval | None = None
    per_sample: dict[int, float] | None = None
    reference: float | None = None
    ratio_to_reference: float | None = None
    weights_hash: str | None = None
    note: str | None = None
    lacks: list[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self, sample_ids: Mapping[int, str]) -> dict[str, Any]:
        """Return the entry for `results.json`; `sample_ids` maps keys to sample ids."""
        named = {name: value for name, value in vars(self).items() if name not in ("n", "extra")}
        if self.interval is not None:
            named["interval"] = list(self.interval.ends) if self.interval.ends else None
            named["interval_rule"] = self.interval.rule
        if self.per_sample is not None:
            named["per_sample"] = {sample_ids[key]: value for key, value in self.per_sample.items()}
        return {name: value for name, value in named.items() if value is not None} | self.n | self.extra


@dataclass(frozen=True)
class Rows:
    """Rows of all samples: one (key, rows [n, W]) pair per sample that has any, in the order of sample ids."""

    samples: list[tuple[int, Tensor]]

    @property
    def values(self) -> Tensor:
        """Copy of the rows of all samples [N, W]; [0, 0] without samples."""
        return torch.cat([rows for _, rows in self.samples]) if self.samples else torch.empty(0, 0)

    @property
    def keys(self) -> list[int]:
        """Key of each sample."""
        return [key for key, _ in self.samples]


class SampleMetric(Metric):
    """A metric over samples, with its settings as keyword arguments of the constructor.

    An argument with the name of an `EvaluationSettings` field takes that field's value unless it is set explicitly.

    Attributes:
        name: Name for `--metrics`.
        columns: Numbers that `compute` returns.
        needs: Requirements by name, each with the message to show if it is not met.
        reads_covered: True if `update` looks at `ScoredSample.covered`; other metrics get the views that are covered
            wholly, see `ScoredSample.whole_views`.
        load_network: Function that loads the network for `update`, or None. Metrics with the same loader share one
            network and one forward pass per sample (`FeatureExtractor.of_sample`). Its arguments are set like those of
            the constructor.

    Args:
        network: Network from `load_network`.
        batch_size: Images per forward pass.
        seed: Random seed of the bootstrap.
        num_resamples: Number of bootstrap resamples, see `mvdiff.eval.intervals`.
        **options: Options of `torchmetrics.Metric`.
    """

    full_state_update = True
    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    needs: ClassVar[Mapping[str, str]] = {}
    reads_covered: ClassVar[bool] = False
    load_network: ClassVar[Callable[..., Any] | None] = None

    def __init__(
        self, *, network: Any = None, batch_size: int = 32, seed: int = 0, num_resamples: int = 1000, **options: Any
    ) -> None:
        check_resamples("num_resamples", num_resamples)
        super().__init__(**{"dist_sync_fn": gather_tensors} | options)
        self.network, self.batch_size, self.seed, self.num_resamples = network, batch_size, seed, num_resamples
        self.row_states = {"sample_ids"}  # states to which rows are only ever added
        self.add_state("sample_ids", default=[], dist_reduce_fx="cat")  # JSON strings as bytes, one per line

    @abstractmethod
    def update(self, sample: ScoredSample, real: bool) -> None:
        """Add a generated sample or, if `real`, a reference sample."""

    @abstractmethod
    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Return a `Result` or a `MissingMetricError` by column name; raise the error if all columns are missing."""

    def add_rows(self, name: str) -> None:
        """Declare a state of rows, for generated and for real samples."""
        for state in self.states(name, real=False) + self.states(name, real=True):
            self.row_states.add(state)
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def append(self, name: str, sample: ScoredSample, real: bool, values: Tensor) -> None:
        """Store the rows [N, W] of a sample, on the CPU.

        Raises:
            ValueError: A value is NaN or infinite.
        """
        check_finite(**{name: values})
        self._store(name, sample, real, values)

    def _store(self, name: str, sample: ScoredSample, real: bool, values: Tensor) -> None:
        keys_state, values_state = self.states(name, real)
        line = (json.dumps(sample.sample_id) + "\n").encode()
        extend(getattr(self, keys_state), torch.tensor([[sample.key, len(values)]]))
        extend(getattr(self, values_state), values.detach().cpu())
        extend(self.sample_ids, torch.tensor(list(line), dtype=torch.uint8))

    def rows(self, name: str, real: bool) -> Rows:
        """Return the stored rows, each sample once, in the order of sample ids."""
        keys, values = (_joined(getattr(self, state)) for state in self.states(name, real))
        if len(keys) == 0:
            return Rows([])
        parts: dict[int, Tensor] = {}
        for key, part in zip(keys[:, 0].tolist(), values.split(keys[:, 1].tolist()), strict=True):
            if len(part):
                parts.setdefault(key, part)
        ids = {keyed_sample(name): name for name in map(json.loads, _lines(self.sample_ids))}
        return Rows(sorted(parts.items(), key=lambda sample: ids[sample[0]]))

    def mean_over_samples(
        self,
        own: Mapping[int, float],
        real: Mapping[int, float],
        totals: Mapping[str, int] | None = None,
        **fields: Any,
    ) -> Result:
        """Average one number per sample, with an interval and, given real samples, the ratio to their mean.

        Args:
            own: Numbers of generated samples, by key.
            real: Numbers of real samples, by key; may be empty.
            totals: Counts to report besides the number of samples.
            **fields: Further fields of the `Result`.
        """
        value = mean(list(own.values()))
        return Result(
            value,
            n=sample_counts(own, real) | dict(totals or {}),
            interval=self.interval(mean, list(own.values())),
            per_sample=dict(own),
            **with_reference(value, list(real.values())),
            **fields,
        )

    def interval(self, statistic: Statistic, samples: Sequence | np.ndarray) -> Interval:
        """Return the 95% interval of a statistic; see `mvdiff.eval.intervals`."""
        return interval(statistic, samples, num_resamples=self.num_resamples, seed=self.seed)

    @property
    def network_fields(self) -> dict[str, str]:
        """`Result` fields that identify the network."""
        return {"model": self.network.name, "weights_hash": self.network.weights_hash}

    @staticmethod
    def states(name: str, real: bool) -> tuple[str, str]:
        """Return the names of the states of rows: key and number of rows of each sample [S, 2], and values [N, W]."""
        which = "real" if real else "generated"
        return f"{name}_{which}_keys", f"{name}_{which}"


class PerSampleMetric(SampleMetric):
    """A metric that averages one number per sample and column, with an interval. Subclasses define `measure`.

    Attributes:
        model: Name of the protocol; not used if the metric has a network.
        variant: Variant of the protocol.
        totals: Names of counts that `measure` also returns and that are summed over samples.
    """

    model: str = ""
    variant: str = ""
    totals: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_rows("numbers")

    @abstractmethod
    def measure(self, sample: ScoredSample) -> Mapping[str, float]:
        """Return the sample's numbers by column (and totals); leave out columns that have none for this sample."""

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Measure a sample.

        Raises:
            ValueError: A number is NaN or infinite.
        """
        numbers = self.measure(sample)
        check_finite(**{name: torch.tensor(value) for name, value in numbers.items()})
        if numbers:
            row = [numbers.get(name, math.nan) for name in self._names()]  # NaN marks columns without a number
            self._store("numbers", sample, real, torch.tensor([row], dtype=torch.float64))

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average every column over samples."""
        return {column.name: self.mean_of(column.name) for column in self.columns}

    def mean_of(self, column: str, **fields: Any) -> Result | MissingMetricError:
        """Average one column over samples; `fields` override fields of the `Result`."""
        named = self.network_fields if self.network else {"model": self.model}
        totals = {name: int(sum(self._values(name, real=False).values())) for name in self.totals}
        own, real = self._values(column, real=False), self._values(column, real=True)
        if not own:
            return MissingMetricError("no sample has a value.")
        return self.mean_over_samples(own, real, **{**named, "variant": self.variant, "totals": totals} | fields)

    def _values(self, name: str, real: bool) -> dict[int, float]:
        index = self._names().index(name)
        values = {key: float(rows[0, index]) for key, rows in self.rows("numbers", real).samples}
        return {key: value for key, value in values.items() if not math.isnan(value)}

    def _names(self) -> list[str]:
        return [*(column.name for column in self.columns), *self.totals]


def check_finite(**tensors: Tensor | None) -> None:
    """Raise ValueError if a named tensor holds NaN or infinity; None is skipped.

    Example:
        >>> check_finite(features=torch.tensor([1.0, float("nan")]))
        Traceback (most recent call last):
        ...
        ValueError: features must be finite; got NaN or infinity in 1 of 2 values.
    """
    for name, values in tensors.items():
        if values is not None and (wrong := int((~torch.isfinite(values)).sum())):
            raise ValueError(f"{name} must be finite; got NaN or infinity in {wrong} of {values.numel()} values.")


def sample_counts(own: Collection[int], real: Collection[int]) -> dict[str, int]:
    """Count the samples behind a number: generated ones, reference ones if any, and those that both sides have.

    Example:
        >>> sample_counts([1, 2, 3], [2, 3, 4]), sample_counts([1, 2], [])
        ({'num_samples': 3, 'num_reference_samples': 3, 'num_paired_samples': 2}, {'num_samples': 2})
    """
    counts = {"num_samples": len(own)}
    if len(real):
        counts |= {"num_reference_samples": len(real), "num_paired_samples": len(set(own) & set(real))}
    return counts


def with_reference(value: float, reference: list[float]) -> dict[str, float]:
    """Return the `Result` fields `reference` and `ratio_to_reference`; empty without reference values."""
    if not reference:
        return {}
    truth = float(np.mean(reference))
    return {"reference": truth} | ({"ratio_to_reference": value / truth} if truth else {})


def _lines(state: list[Tensor] | Tensor) -> set[str]:
    return set(bytes(_joined(state).to(torch.uint8).flatten().tolist()).decode().splitlines())


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """Concatenate a state unless torchmetrics has already done so."""
    return state if isinstance(state, Tensor) else torch.cat(state) if state else torch.empty(0, 0)
