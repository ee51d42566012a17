import numpy as np
import pytest
import scipy.stats

from mvdiff.eval.bootstrap import bootstrap, difference, mean, paired_difference


def values(num=40, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, num)


def test_matches_scipy_percentile_bootstrap():
    ours = bootstrap(mean, values(), num_resamples=8000)
    theirs = scipy.stats.bootstrap((values(),), np.mean, method="percentile", n_resamples=8000, rng=1)
    low, high = theirs.confidence_interval
    assert ours.low == pytest.approx(low, abs=0.02)
    assert ours.high == pytest.approx(high, abs=0.02)
    assert ours.estimate == pytest.approx(values().mean())


def test_pairing_removes_what_samples_share():
    a = values()
    b = a + 0.3 + 0.01 * values(seed=1)
    paired, unpaired = paired_difference(b, a), bootstrap(difference, b, a)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.low > 0.29
    assert paired.high < 0.31
    assert unpaired.low < 0 < unpaired.high


def test_seeded():
    assert bootstrap(mean, values(), seed=3) == bootstrap(mean, values(), seed=3)
    assert bootstrap(mean, values(), seed=3) != bootstrap(mean, values(), seed=4)


def test_statistic_over_whole_samples():
    """Views of one panorama stay together: identical views give the interval of the panoramas, not a narrower one."""
    one = values(20)
    stacked = np.repeat(one[:, None], 8, axis=1)
    assert bootstrap(mean, stacked).low == pytest.approx(bootstrap(mean, one).low)
    assert str(bootstrap(mean, [1.0])) == "1 [1, 1]"


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (([],), {}, "at least one sample"),
        (([1.0, np.nan],), {}, "must be finite"),
        (([1.0],), {"level": 1.0}, "level must be between 0 and 1; got 1.0"),
        (([1.0], [1.0, 2.0]), {"paired": True}, r"paired samples must be equal in number; got \[1, 2\]"),
    ],
)
def test_wrong_arguments_are_refused(args, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(mean, *args, **options)
