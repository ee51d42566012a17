"""Compare methods by paired differences of their results: every per-sample number, FID and KID.

A difference is always `method - base`, over the samples that both have.

Axes: V views, D features, M reference images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.comparability import measured_differently
from mvdiff.eval.feature_cache import FeatureCache, Row
from mvdiff.eval.intervals import Interval, mean
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.kid import KID
from mvdiff.eval.paired import paired, paired_distance
from mvdiff.eval.table import result_column

_DISTANCES = {metric.kind: metric for metric in (FID, KID)}
_TOLERANCES = {FID.kind: 1e-3, KID.kind: 1e-6}
"""How far the distance of cached features may be off the recorded one near 0; else a thousandth of it."""
NO_CACHE = (
    "it needs the features of all images. Run mvdiff evaluate with --cache DIR for each method, then compare with the "
    "same --cache DIR"
)


@dataclass(frozen=True)
class Difference:
    """One number of a method compared with the base's.

    Attributes:
        column: The number, with its unit and direction.
        base: The base's number over the shared samples; None if not compared.
        value: The method's number over the shared samples; None if not compared.
        interval: `value - base` with its interval; None if not compared.
        num_samples: Number of shared samples.
        reason: Why it is not compared; None if it is.
        is_expected: True if nothing went wrong: such numbers are never compared, no cache was given, or the results
            differ, which was allowed.
    """

    column: Column
    base: float | None = None
    value: float | None = None
    interval: Interval | None = None
    num_samples: int = 0
    reason: str | None = None
    is_expected: bool = False

    @property
    def verdict(self) -> str:
        """What the method is, compared with the base: "better", "worse", "higher" or "lower"; "no difference
        shown", "too few samples" or "not compared"."""
        if self.interval is None:
            return "not compared"
        if self.interval.ends is None:
            return "too few samples"
        if not (self.interval.is_above(0) or self.interval.is_below(0)):
            return "no difference shown"
        is_higher = self.interval.is_above(0)
        if self.column.higher_is_better is None:
            return "higher" if is_higher else "lower"
        return "better" if is_higher == self.column.higher_is_better else "worse"

    def to_json(self) -> dict[str, Any]:
        """Return the entry for a file."""
        if self.interval is None:
            return {"not_compared": self.reason}
        better = {True: "higher", False: "lower", None: None}[self.column.higher_is_better]
        return {
            "difference": self.interval.estimate,
            "interval": list(self.interval.ends) if self.interval.ends else None,
            "interval_rule": self.interval.rule,
            "num_paired_samples": self.num_samples,
            "base": self.base,
            "value": self.value,
            "better": better,
            "verdict": self.verdict,
        }


def compare(
    base: Mapping[str, Any],
    other: Mapping[str, Any],
    names: tuple[str, str],
    cache: FeatureCache | None = None,
    num_resamples: int = 2000,
    fid_resamples: int = 200,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare a method with a base.

    Args:
        base: Results of the base, see `mvdiff.eval.runner.evaluate`.
        other: Results of the method.
        names: Names of the base and of the method, for reasons.
        cache: Cache with the features of both methods' images and of the reference, for FID and KID.
        num_resamples: Bootstrap resamples, see `mvdiff.eval.intervals`.
        fid_resamples: Bootstrap resamples of Fréchet distances.
        seed: Random seed of the bootstrap.

    Returns:
        The difference by number, for all numbers that either has.
    """
    found = {}
    for metric in dict.fromkeys([*base["metrics"], *other["metrics"]]):
        column = result_column(base if metric in base["metrics"] else other, metric)
        entries = tuple(results["metrics"].get(metric) for results in (base, other))
        try:
            _check_entries(entries, names)
            if any(entry.get("samples_depend") for entry in entries):
                raise _NotAsked("the values of its samples depend on each other")
            if all("per_sample" in entry for entry in entries):
                options = {"num_resamples": num_resamples, "seed": seed}
                found[metric] = _of_samples(column, base, other, metric, options)
            elif all(entry.get("distance") in _DISTANCES for entry in entries):
                count = fid_resamples if entries[0]["distance"] == FID.kind else num_resamples
                if cache is None:
                    raise _NotAsked(NO_CACHE)
                distances = _Distances((base, other), names, cache, {"num_resamples": count, "seed": seed})
                found[metric] = distances.difference(column, entries)
            else:
                raise _NotAsked("it is no mean over samples and no distance of features")
        except ValueError as error:
            found[metric] = Difference(column, reason=str(error).rstrip("."), is_expected=isinstance(error, _NotAsked))
    return found


class _NotAsked(ValueError):
    """Raised for a number that cannot be compared, not without a cache, or not for results that differ."""


def _check_entries(entries: Sequence[Mapping[str, Any] | None], names: tuple[str, str]) -> None:
    for entry, name in zip(entries, names, strict=True):
        if entry is None:
            raise _NotAsked(f"{name} does not have it")
        if "missing" in entry:
            raise ValueError(f"missing in {name}: {entry['missing']}")
    if line := measured_differently(*entries, names):
        raise _NotAsked(f"measured in different ways: {line}")


def _of_samples(
    column: Column, base: Mapping[str, Any], other: Mapping[str, Any], metric: str, options: Mapping[str, Any]
) -> Difference:
    interval = paired(other, base, metric, **options)
    own, theirs = (results["metrics"][metric]["per_sample"] for results in (base, other))
    shared = sorted(own.keys() & theirs.keys())
    means = (mean([values[name] for name in shared]) for values in (own, theirs))
    return Difference(column, *means, interval, len(shared))


@dataclass(frozen=True)
class _Distances:
    """Differences of FID and KID, from cached features of the images of two results."""

    results: tuple[Mapping[str, Any], Mapping[str, Any]]
    names: tuple[str, str]
    cache: FeatureCache
    options: Mapping[str, Any]

    def difference(self, column: Column, entries: Sequence[Mapping[str, Any]]) -> Difference:
        metric = _DISTANCES[entries[0]["distance"]]
        find = self.cache.rows_of(str(entries[0].get("weights_hash")), str(entries[0].get("network_variant")))
        references = [(results["reference"] or {}) for results in self.results]
        if len({reference.get("content_hash") for reference in references}) > 1:
            raise _NotAsked("the references differ")
        reference = torch.cat(list(self._features(find, references[0], f"the reference of {self.names[0]}").values()))
        sides = [
            self._features(find, results["generated"], name)
            for results, name in zip(self.results, self.names, strict=True)
        ]
        for features, entry, name in zip(sides, entries, self.names, strict=True):
            value = metric.resampled(list(features.values()), reference)(np.arange(len(features)))
            if not math.isclose(value, entry["value"], rel_tol=1e-3, abs_tol=_TOLERANCES[metric.kind]):
                raise ValueError(
                    f"the cached features of {name} give {value:.4g} where its file has {entry['value']:.4g}"
                )
        shared = sorted(sides[0].keys() & sides[1].keys())
        drawn = np.arange(len(shared))
        values = [metric.resampled([side[name] for name in shared], reference)(drawn) for side in sides]
        interval = paired_distance(metric.resampled, sides[1], sides[0], reference, **self.options)
        return Difference(column, *values, interval, len(shared))

    def _features(
        self, find: Callable[[str], Row | None], described: Mapping[str, Any], name: str
    ) -> dict[str, Tensor]:
        """Return the features [V, D] of the views that are covered wholly, by sample id."""
        images, whole = described.get("images"), described.get("whole_views", {})
        if not images or not all(images.values()):
            raise ValueError(f"{name} records no hashes of its images; evaluate it again")
        measured = {one: [keys[view] for view in whole.get(one, range(len(keys)))] for one, keys in images.items()}
        rows = {one: [find(key) for key in keys] for one, keys in sorted(measured.items()) if keys}
        lacking = sum(row is None for found in rows.values() for row in found)
        if lacking:
            total = sum(map(len, rows.values()))
            raise ValueError(
                f"{lacking} of {total} images of {name} are not in {self.cache.folder}. Run mvdiff evaluate with "
                "--cache for it again"
            )
        return {sample_id: torch.stack([row["features"] for row in found]) for sample_id, found in rows.items()}
