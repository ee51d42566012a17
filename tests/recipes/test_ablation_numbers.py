"""Means over seeds and paired differences against the interval rules of single numbers, and what counts as shown."""

import numpy as np
import pytest
import torch

from mvdiff.eval import intervals
from mvdiff.eval.intervals import Interval
from mvdiff.eval.metrics.kid import kernel_distance
from mvdiff.recipes.benchmarks.ablation_numbers import PanoramaNumber, SeedMean, difference_over_seeds, over_seeds

OPTIONS = {"num_resamples": 300, "seed": 4}


def drawn_values(seed, count, shift=0.0):
    rng = np.random.default_rng(seed)
    return {f"room{i:02d}": float(value) for i, value in enumerate(rng.normal(20 + shift, 2, count))}


def numbers_of(by_seed):
    return {seed: PanoramaNumber.of_values(values) for seed, values in by_seed.items()}


def over_rooms(by_seed):
    return [np.mean([values[name] for values in by_seed.values()]) for name in sorted(by_seed[0])]


@pytest.mark.parametrize("count", [3, 12, 32])
def test_a_number_of_panoramas_is_the_mean_over_seeds_of_each(count):
    by_seed = {seed: drawn_values(seed, count) for seed in (0, 1, 2)}
    found = over_seeds(numbers_of(by_seed), **OPTIONS)
    expected = intervals.interval(intervals.mean, over_rooms(by_seed), **OPTIONS)
    assert found.interval.estimate == pytest.approx(expected.estimate)
    assert found.interval.rule == expected.rule
    assert found.interval.ends == (None if count < 8 else pytest.approx(expected.ends))
    assert found.by_seed == pytest.approx({seed: np.mean(list(values.values())) for seed, values in by_seed.items()})


def test_differences_are_paired_by_seed_and_room_whatever_the_order():
    ours = {seed: drawn_values(seed, 32) for seed in (0, 1, 2)}
    theirs = {
        seed: {name: value + 0.5 + 0.1 * seed for name, value in reversed(ours[seed].items())} for seed in (2, 1, 0)
    }
    theirs[7] = drawn_values(7, 32)  # a seed of one alone is left out
    found = difference_over_seeds(numbers_of(theirs), numbers_of(ours), **OPTIONS)
    assert found.by_seed == pytest.approx({0: 0.5, 1: 0.6, 2: 0.7})
    assert found.interval.ends == pytest.approx((0.6, 0.6))  # every room gains as much: unpaired, 20 +- 0.4
    assert found.is_shown


def test_kernel_distances_are_those_of_all_views_and_differ_by_the_same_rooms():
    generator = torch.Generator().manual_seed(0)

    def features(shift):
        drawn = torch.randn(32, 3, 6, generator=generator) + shift
        return {f"room{i:02d}": rows for i, rows in enumerate(drawn)}

    reference = torch.randn(50, 6, generator=generator)
    ours, theirs = ({seed: features(shift) for seed in (0, 1)} for shift in (0.2, 0.6))
    numbers = [
        {seed: PanoramaNumber.of_features(rows, reference) for seed, rows in by_seed.items()}
        for by_seed in (ours, theirs)
    ]
    expected = [
        {seed: kernel_distance(torch.cat(list(rows.values())), reference) for seed, rows in by_seed.items()}
        for by_seed in (ours, theirs)
    ]
    assert over_seeds(numbers[1], **OPTIONS).by_seed == pytest.approx(expected[1])
    found = difference_over_seeds(numbers[1], numbers[0], **OPTIONS)
    gains = {seed: expected[1][seed] - expected[0][seed] for seed in (0, 1)}
    assert found.by_seed == pytest.approx(gains)
    assert found.interval.estimate == pytest.approx(np.mean(list(gains.values())))
    assert found.interval.low < found.interval.estimate < found.interval.high
    assert found.is_shown


@pytest.mark.parametrize(
    ("ends", "by_seed", "is_shown"),
    [
        ((-3.0, -1.0), (-2.0, -1.5, -2.5), True),
        ((-3.0, -1.0), (-4.0, -2.5, 0.5), False),  # one seed says otherwise
        ((-3.0, 0.5), (-2.0, -1.5, -2.5), False),  # the interval holds 0
        ((-3.0, -1.0), (-2.0,), False),  # one seed says nothing of the others
        ((None, None), (-2.0, -1.5, -2.5), False),
    ],
)
def test_a_difference_is_shown_by_the_interval_and_every_seed(ends, by_seed, is_shown):
    assert SeedMean(Interval(-2.0, *ends, 0.95), dict(enumerate(by_seed))).is_shown == is_shown


def test_other_panoramas_are_not_compared():
    own, other = (PanoramaNumber.of_values(drawn_values(0, count)) for count in (8, 9))
    with pytest.raises(ValueError, match=r"must be of the same panoramas to be compared; got 8 and 9"):
        _ = own - other
    with pytest.raises(ValueError, match=r"same panoramas for at least one seed; got 2 sets"):
        over_seeds({0: own, 1: other})
    with pytest.raises(ValueError, match=r"at least one seed; got 0 sets"):
        difference_over_seeds({0: own}, {1: own})
