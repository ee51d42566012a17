"""Bootstrap intervals over samples (percentile method, Efron 1979). A sample is a whole panorama, never a single view.

Equal seeds give equal resamples, so intervals are reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[..., float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval [low, high]; `level` is the share of resamples inside."""

    estimate: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean(values: np.ndarray) -> float:
    """Return the mean over samples."""
    return float(np.mean(values))


def bootstrap(
    statistic: Statistic,
    *samples: Sequence | np.ndarray,
    paired: bool = False,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a bootstrap interval of a statistic, resampling with replacement.

    Args:
        statistic: Function of the arrays in `samples` that returns a number.
        samples: Arrays [S, ...] with samples along axis 0, such as features [S, V, D] of panoramas.
        paired: Draw the same indices from all arrays, for example for two methods on the same prompts; needs equal S.
        num_resamples: Number of resamples.
        level: Share of resamples inside the interval, in (0, 1).
        seed: Random seed.

    Returns:
        The statistic of the original samples, with its interval.

    Raises:
        ValueError: There are no samples, paired arrays differ in length, a value is not finite, or `level` is out of
            range.

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
        raise ValueError(f"paired samples must be equal in number; got {[len(a) for a in arrays]}.")
    rng = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    for i in range(num_resamples):
        if paired:
            indices = rng.integers(0, len(arrays[0]), len(arrays[0]))
            values[i] = statistic(*(array[indices] for array in arrays))
        else:
            values[i] = statistic(*(array[rng.integers(0, len(array), len(array))] for array in arrays))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*arrays)), float(low), float(high), level)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the difference of means, a minus b."""
    return float(np.mean(a) - np.mean(b))


def paired_difference(a: Sequence[float], b: Sequence[float], **options) -> Interval:
    """Return the mean of `a - b`, for two methods on the same samples, with its interval; options: see `bootstrap`."""
    return bootstrap(difference, a, b, paired=True, **options)
