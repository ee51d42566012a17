"""Intervals over samples. A sample is a whole panorama, never a single view.

The rule follows from the number of samples: no interval below 8, Student's t below 30, and from 30 on the percentile
bootstrap (Efron 1979), which is too narrow for fewer: its 95 % intervals of a mean cover 80 % at 4 samples, 89 % at 8.

Equal seeds give equal resamples, so intervals are reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mvdiff.eval.settings import check_resamples

Statistic = Callable[..., float]

LEVEL = 0.95
"""Confidence level."""
FEWEST = 8
"""Smallest number of samples with an interval."""
FEWEST_RESAMPLED = 30
"""Smallest number of samples whose interval comes from resamples."""


@dataclass  # not frozen: torchmetrics refuses frozen dataclasses in what `compute` returns
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: The estimate.
        low: Lower end; None if there are too few samples for an interval.
        high: Upper end, or None.
        level: Confidence level of the interval.
        rule: Method and number of samples, for results.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float
    rule: str = ""

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends; None if there are too few samples for an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def is_above(self, value: float) -> bool:
        """Return True if the whole interval lies above a value; False without an interval."""
        return self.low is not None and self.low > value

    def is_below(self, value: float) -> bool:
        """Return True if the whole interval lies below a value; False without an interval."""
        return self.high is not None and self.high < value

    def __str__(self) -> str:
        ends = self.ends
        shown = f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "(no interval)"
        return f"{self.estimate:.4g} {shown}"


def mean(values: np.ndarray) -> float:
    """Return the mean over samples."""
    return float(np.mean(values))


def interval(
    statistic: Statistic,
    *samples: Sequence | np.ndarray,
    num_resamples: int = 2000,
    level: float = LEVEL,
    seed: int = 0,
    unbiased: bool = True,
) -> Interval:
    """Compute a statistic of samples with its interval; the module's docstring gives the rule.

    Student's t takes the standard error from the jackknife (Tukey 1958): of a mean it is the usual one, so the interval
    is that of the one-sample t-test.

    Args:
        statistic: Function of the arrays in `samples` that returns a number.
        samples: Arrays [S, ...] of equal S with samples along axis 0, such as features [S, V, D] of panoramas. Several
            arrays are measurements of the same samples, for example of two methods on the same prompts.
        num_resamples: Number of resamples of the bootstrap, at least 100.
        level: Confidence level, in (0, 1).
        seed: Random seed of the bootstrap.
        unbiased: False if resampling raises or lowers the statistic, as it does a Fréchet distance: the interval of the
            bootstrap is then shifted by the mean of the resamples less the statistic. The jackknife needs no shift.

    Returns:
        The statistic of all samples, with its interval.

    Raises:
        ValueError: There are no samples, the arrays differ in length, a value is not finite, or `level` or
            `num_resamples` is out of range.

    Example:
        >>> interval(mean, [1.0] * 8)
        Interval(estimate=1.0, low=1.0, high=1.0, level=0.95, rule="Student's t, 8 samples")
        >>> interval(mean, [1.0, 2.0])
        Interval(estimate=1.5, low=None, high=None, level=0.95, rule='none: 2 samples, fewer than 8')
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in samples]
    if not arrays or any(array.ndim == 0 or len(array) == 0 for array in arrays):
        raise ValueError(f"samples must hold at least one sample each; got {[a.shape for a in arrays]}.")
    if any(not np.isfinite(array).all() for array in arrays):
        raise ValueError("samples must be finite; got NaN or inf.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level}.")
    check_resamples("num_resamples", num_resamples)
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"samples must be equal in number; got {[len(a) for a in arrays]}.")
    estimate, count = float(statistic(*arrays)), len(arrays[0])
    if count < FEWEST_RESAMPLED:
        left_out = (statistic(*(np.delete(array, i, axis=0) for array in arrays)) for i in range(count))
        return jackknife_interval(estimate, count, left_out, level=level)
    rng = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    for i in range(num_resamples):
        indices = rng.integers(0, count, count)
        values[i] = statistic(*(array[indices] for array in arrays))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    shift = 0.0 if unbiased else float(np.mean(values)) - estimate
    low, high = low - shift, high - shift
    less = "" if unbiased else " less its bias"
    rule = f"percentile bootstrap{less}, {count} samples, {num_resamples} resamples"
    return Interval(estimate, float(low), float(high), level, rule)


def jackknife_interval(
    estimate: float, count: int, left_out: Iterable[float], level: float = LEVEL, how: str = "Student's t"
) -> Interval:
    """Return the interval of Student's t with the standard error of the jackknife.

    Args:
        estimate: The statistic of all samples.
        count: Number of samples.
        left_out: The statistic without each sample in turn; not read if there are too few samples for an interval.
        level: Confidence level, in (0, 1).
        how: Method, for the rule.
    """
    noun = "sample" if count == 1 else "samples"
    if count < FEWEST:
        return Interval(estimate, None, None, level, f"none: {count} {noun}, fewer than {FEWEST}")
    error = np.sqrt((count - 1) * np.var(list(left_out)))
    margin = float(stdtrit(count - 1, (1 + level) / 2) * error)
    return Interval(estimate, estimate - margin, estimate + margin, level, f"{how}, {count} {noun}")


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the difference of means, a minus b."""
    return float(np.mean(a) - np.mean(b))


def paired_difference(a: Sequence[float], b: Sequence[float], **options) -> Interval:
    """Return the mean of `a - b`, for two methods on the same samples, with its interval; options: see `interval`."""
    return interval(difference, a, b, **options)
