"""Numbers of the ablations: means over the seeds of a variant, and paired differences, with intervals over panoramas.

Every variant is trained with the same seeds, and all models generate the same panoramas from the same captions and
noise. A number is the mean over the seeds. Its interval (`mvdiff.eval.intervals`) is that over panoramas, each drawn
for all seeds together: it holds for these trainings. The values of the seeds beside it show how much another training
changes.

Axes: V views, D features, M reference images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from mvdiff.eval.intervals import Interval, interval, mean
from mvdiff.eval.metrics.kid import ResampledKernel


@dataclass(frozen=True)
class PanoramaNumber:
    """A number of drawn panoramas.

    Attributes:
        names: Ids of the panoramas, sorted.
        of: Function of the indices of drawn panoramas that returns the number.
    """

    names: tuple[str, ...]
    of: Callable[[np.ndarray], float]

    @classmethod
    def of_values(cls, values: Mapping[str, float]) -> Self:
        """Return the mean of values by sample id."""
        names = tuple(sorted(values))
        array = np.array([values[name] for name in names])
        return cls(names, lambda drawn: mean(array[drawn.astype(int)]))

    @classmethod
    def of_features(cls, features: Mapping[str, Tensor], reference: Tensor) -> Self:
        """Return the kernel distance of features [V, D] by sample id to those of a reference [M, D]."""
        names = tuple(sorted(features))
        return cls(names, ResampledKernel([features[name] for name in names], reference))

    def __sub__(self, other: PanoramaNumber) -> PanoramaNumber:
        """Return the difference on the same drawn panoramas; raise ValueError if they are not the same."""
        if self.names != other.names:
            raise ValueError(
                f"numbers must be of the same panoramas to be compared; got {len(self.names)} and {len(other.names)}."
            )
        return PanoramaNumber(self.names, lambda drawn: self.of(drawn) - other.of(drawn))


@dataclass(frozen=True)
class SeedMean:
    """A number of a variant, or a difference of two, over the seeds of the training.

    Attributes:
        interval: Mean over the seeds, with its interval over panoramas.
        by_seed: Value of each seed.
    """

    interval: Interval
    by_seed: Mapping[int, float]

    @property
    def is_shown(self) -> bool:
        """True if a difference is one: the interval leaves out 0, and each of at least two seeds has its sign."""
        signs = {np.sign(value) for value in (self.interval.estimate, *self.by_seed.values())}
        return len(self.by_seed) > 1 and len(signs) == 1 and (self.interval.is_above(0) or self.interval.is_below(0))

    def to_json(self) -> dict[str, Any]:
        """Return the entry for a file."""
        ends = self.interval.ends
        return {
            "value": self.interval.estimate,
            "interval": None if ends is None else list(ends),
            "interval_rule": self.interval.rule,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
        }


def over_seeds(numbers: Mapping[int, PanoramaNumber], **options: Any) -> SeedMean:
    """Return the mean over seeds.

    Args:
        numbers: Number of each seed, of the same panoramas.
        **options: See `mvdiff.eval.intervals.interval`.

    Raises:
        ValueError: There is no seed, or they have other panoramas.
    """
    names = {number.names for number in numbers.values()}
    if len(names) != 1:
        raise ValueError(f"numbers must be of the same panoramas for at least one seed; got {len(names)} sets.")
    everything = np.arange(len(names.pop()))
    result = interval(lambda drawn: mean([one.of(drawn) for one in numbers.values()]), everything, **options)
    return SeedMean(result, {seed: float(one.of(everything)) for seed, one in sorted(numbers.items())})


def difference_over_seeds(
    numbers: Mapping[int, PanoramaNumber], other: Mapping[int, PanoramaNumber], **options: Any
) -> SeedMean:
    """Return a variant's difference to another one, paired by seed and panorama; seeds of one alone are left out.

    Raises:
        ValueError: They share no seed, or have other panoramas.
    """
    return over_seeds({seed: numbers[seed] - other[seed] for seed in numbers.keys() & other.keys()}, **options)
