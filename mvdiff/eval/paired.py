"""Paired differences between two methods on the same samples.

Axes: S samples, V views, D features, M reference images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.intervals import Interval, interval, paired_difference
from mvdiff.eval.metrics.fid import ResampledFrechet
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.set_distance import Resampled


def paired(results: Mapping[str, Any], other: Mapping[str, Any], metric: str, **options: Any) -> Interval:
    """Return the mean difference `results - other` of a metric over shared samples, with its interval.

    Args:
        results: Results of `mvdiff.eval.runner.evaluate`, or the content of a `results.json`.
        other: Results of another method, scored with the same settings.
        metric: Name of a number with `per_sample` values.
        **options: See `mvdiff.eval.intervals.interval`.

    Raises:
        ValueError: A result has no `per_sample` values of the metric, the two were measured with different networks or
            protocols, or they share no sample.

    Example:
        >>> ours, base = ({"metrics": {"clip_score": {"per_sample": {"a": x, "b": x}}}} for x in (25.0, 24.0))
        >>> paired(ours, base, "clip_score")
        Interval(estimate=1.0, low=None, high=None, level=0.95, rule='none: 2 samples, fewer than 8')
    """
    entries = [scored["metrics"].get(metric, {}) for scored in (results, other)]
    if not all("per_sample" in entry for entry in entries):
        available = sorted(name for name, entry in results["metrics"].items() if "per_sample" in entry)
        raise ValueError(
            f"metric must have per-sample values in both results; got {metric}. The first has {', '.join(available)}."
        )
    for key in ("model", "weights_hash", "variant"):
        if entries[0].get(key) != entries[1].get(key):
            raise ValueError(
                f"{metric} must be measured in the same way in both results; got {key} {entries[0].get(key)!r} and "
                f"{entries[1].get(key)!r}."
            )
    return paired_difference(*_matched(*(entry["per_sample"] for entry in entries)), **options)


def sample_features(samples: Iterable[ScoredSample], extractor: FeatureExtractor) -> dict[str, Tensor]:
    """Extract features [V, D] by sample id, for `paired_fid`."""
    return {sample.sample_id: extractor(sample.images_uint8)[0] for sample in samples}


def paired_fid(
    features: Mapping[str, Tensor], other: Mapping[str, Tensor], reference: Tensor, **options: Any
) -> Interval:
    """Return the difference between two methods' Fréchet distances to one reference; see `paired_distance`."""
    return paired_distance(ResampledFrechet, features, other, reference, **options)


def paired_distance(
    resampled: Callable[[Sequence[Tensor], Tensor], Resampled],
    features: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    reference: Tensor,
    **options: Any,
) -> Interval:
    """Return the difference between two methods' distances to one reference, over shared samples.

    Resampling increases a Fréchet distance. This bias largely cancels in the difference of two distances on the same
    resample, so the difference needs no correction.

    Args:
        resampled: `resampled` of the metric, see `mvdiff.eval.set_distance.SetDistance`.
        features: [V, D] features by sample id, see `sample_features`.
        other: Features of another method.
        reference: [M, D] features of the reference images.
        **options: See `mvdiff.eval.intervals.interval`.

    Returns:
        The difference with its interval; positive if `features` are farther from the reference than `other`.

    Raises:
        ValueError: The methods share no sample, or shapes do not match.
    """
    ours, theirs = (resampled(part, reference) for part in _matched(features, other))
    indices = np.arange(len(features.keys() & other.keys()))
    return interval(lambda drawn: ours(drawn) - theirs(drawn), indices, **options)


def _matched(values: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return both methods' values of the shared samples, sorted by id."""
    shared = sorted(values.keys() & other.keys())
    if not shared:
        raise ValueError(
            f"paired methods must share samples; got {len(values)} and {len(other)} samples, none in common."
        )
    return [values[name] for name in shared], [other[name] for name in shared]
