"""Paired differences of two methods on the same samples.

Legend: S samples, V views, D features, M reference images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.bootstrap import Interval, bootstrap, paired_difference
from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.metrics.fid import gaussian_distance, mean_and_root
from mvdiff.eval.sources import ScoredSample


def paired(results: Mapping[str, Any], other: Mapping[str, Any], metric: str, **options: Any) -> Interval:
    """Compare two methods on the samples that both have: mean of `results` minus `other`, with its interval.

    Args:
        results: Results of `mvdiff.eval.runner.evaluate`, or the content of their JSON file.
        other: The same of another method, scored with the same settings.
        metric: A number that has `per_sample` values.
        **options: See `mvdiff.eval.bootstrap.bootstrap`.

    Raises:
        ValueError: The metric has no numbers per sample in both, another network or protocol measured the other, or no
            sample is in both.

    Example:
        >>> ours, base = ({"metrics": {"clip_score": {"per_sample": {"a": x, "b": x}}}} for x in (25.0, 24.0))
        >>> paired(ours, base, "clip_score")
        Interval(estimate=1.0, low=1.0, high=1.0, level=0.95)
    """
    entries = [scored["metrics"].get(metric, {}) for scored in (results, other)]
    if not all("per_sample" in entry for entry in entries):
        found = sorted(name for name, entry in results["metrics"].items() if "per_sample" in entry)
        raise ValueError(
            f"metric must have numbers per sample in both results; got {metric}, in the first: {', '.join(found)}."
        )
    for key in ("model", "weights_hash", "variant"):
        if entries[0].get(key) != entries[1].get(key):
            raise ValueError(
                f"{metric} must be measured alike in both results; got {key} {entries[0].get(key)!r} and "
                f"{entries[1].get(key)!r}."
            )
    return paired_difference(*_matched(*(entry["per_sample"] for entry in entries)), **options)


def sample_features(samples: Iterable[ScoredSample], extractor: FeatureExtractor) -> dict[str, Tensor]:
    """Extract each sample's features: `{sample id: [V, D]}`, for `paired_fid`."""
    return {sample.sample_id: extractor(sample.images_uint8)[0] for sample in samples}


def paired_fid(
    features: Mapping[str, Tensor], other: Mapping[str, Tensor], reference: Tensor, **options: Any
) -> Interval:
    """Compare two methods' Fréchet distances to one reference on the samples that both have.

    A resampled set lies further from the reference than the set itself; of two distances on the same resample this bias
    largely cancels, so the difference gets an interval where the distance itself should not.

    Args:
        features: `[V, D]` features by sample id, see `sample_features`; all samples have the same V.
        other: The same of another method.
        reference: [M, D] features of the reference images.
        **options: See `mvdiff.eval.bootstrap.bootstrap`.

    Returns:
        The difference with its interval; positive: `features` lie further from the reference.

    Raises:
        ValueError: No sample is in both, or shapes do not fit.
    """
    fitted = mean_and_root(reference)

    def distance(drawn_SVD: np.ndarray) -> float:
        return gaussian_distance(mean_and_root(torch.from_numpy(drawn_SVD).flatten(0, 1)), fitted)

    stacked = (torch.stack(tuple(part)).numpy() for part in _matched(features, other))
    return bootstrap(lambda a, b: distance(a) - distance(b), *stacked, paired=True, **options)


def _matched(values: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the values of the samples that both have, in the order of their ids."""
    shared = sorted(values.keys() & other.keys())
    if not shared:
        raise ValueError(
            f"two methods must share samples to be paired; got none in common, of {len(values)} and {len(other)}."
        )
    return [values[name] for name in shared], [other[name] for name in shared]
