"""Bootstrap intervals over samples (percentile method, Efron 1979); a sample is a panorama, never a single view.

The same seed gives the same resamples, so intervals are exact to re-run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[..., float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval."""

    estimate: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean(values: np.ndarray) -> float:
    """Mean over samples: the default statistic."""
    return float(np.mean(values))


def bootstrap(
    statistic: Statistic,
    *samples: Sequence | np.ndarray,
    paired: bool = False,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Resample samples with replacement and take percentiles of a statistic.

    Args:
        statistic: Function of as many arrays as there are `samples`, each with the samples along axis 0.
        samples: Arrays `[S, ...]`; axis 0 counts samples (e.g. features `[S, V, D]` of panoramas).
        paired: Draw the same samples from all arrays (equal S needed), e.g. two methods on the same prompts.
        num_resamples: Number of resamples.
        level: Share of resamples inside the interval.
        seed: Seed of the draws.

    Returns:
        The statistic of the samples as they are, and the interval.

    Raises:
        ValueError: No samples, unequal paired counts, non-finite values, or a level outside (0, 1).

    Example:
        >>> bootstrap(mean, [1.0, 1.0, 1.0])
        Interval(estimate=1.0, low=1.0, high=1.0, level=0.95)
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in samples]
    if not arrays or any(array.ndim == 0 or len(array) == 0 for array in arrays):
        raise ValueError(f"samples must hold at least one sample each; got {[a.shape for a in arrays]}.")
    if any(not np.isfinite(array).all() for array in arrays):
        raise ValueError("samples must be finite; got NaN or inf.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level}.")
    if paired and len({len(array) for array in arrays}) > 1:
        raise ValueError(f"paired samples must be equally many; got {[len(a) for a in arrays]}.")
    rng = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    for i in range(num_resamples):
        if paired:
            chosen = rng.integers(0, len(arrays[0]), len(arrays[0]))
            values[i] = statistic(*(array[chosen] for array in arrays))
        else:
            values[i] = statistic(*(array[rng.integers(0, len(array), len(array))] for array in arrays))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*arrays)), float(low), float(high), level)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Difference of means, a minus b."""
    return float(np.mean(a) - np.mean(b))


def paired_difference(a: Sequence[float], b: Sequence[float], **options) -> Interval:
    """Interval of the mean of `a - b` for two methods on the same samples (options: see `bootstrap`)."""
    return bootstrap(difference, a, b, paired=True, **options)
