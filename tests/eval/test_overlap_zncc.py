"""ZNCC of overlapping views: numpy's correlation, what leaves it alone, what lowers it, and flat views."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.eval.metrics.overlap_zncc import OverlapZNCC
from mvdiff.eval.overlap import warped_views
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.warped_pairs import BLOCK, WarpedPair, correlation, pixel_sums
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import SampleRecord, sample_folder, write_sample
from tests.eval.worlds import RIG, views, write_samples

ONE_VIEW = RingRig(num_views=1, height=12, width=12)
AS_IS = EvaluationSettings(overlap_size=0, num_resamples=100)
seeds = st.integers(min_value=0, max_value=10_000)


def pixels(seed, num=50):
    return torch.rand(3, num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def zncc(own, warped):
    return correlation(pixel_sums(own, warped), own.shape[1])


@given(seeds)
def test_is_numpys_correlation_of_centred_channels(seed):
    own, warped = pixels(seed), pixels(seed + 1)
    centred = [(values - values.mean(dim=1, keepdim=True)).flatten().numpy() for values in (own, warped)]
    assert zncc(own, warped) == pytest.approx(np.corrcoef(*centred)[0, 1])
    assert zncc(warped, own) == pytest.approx(zncc(own, warped))


@given(seeds, st.floats(0.05, 20), st.tuples(*[st.floats(-5, 5)] * 3))
def test_contrast_and_brightness_do_not_matter(seed, scale, shift):
    own, warped = pixels(seed), pixels(seed + 1)
    changed = scale * warped + torch.tensor(shift, dtype=torch.float64)[:, None]
    assert zncc(own, changed) == pytest.approx(zncc(own, warped), abs=1e-9)
    assert zncc(warped, changed) == pytest.approx(1)
    assert zncc(warped, -changed) == pytest.approx(-1)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_noise_on_both_views_lowers_it_as_derived(strength):
    # Signal of variance 1, independent noise of variance n on both sides: 1 / (1 + n).
    draw = torch.Generator().manual_seed(0)
    signal, *noise = (torch.randn(3, 40_000, dtype=torch.float64, generator=draw) for _ in range(3))
    found = zncc(*(signal + strength * part for part in noise))
    assert found == pytest.approx(1 / (1 + strength**2), abs=0.01)


def test_flat_views_agree_with_nothing():
    textured, flat = pixels(0), torch.full((3, 50), 0.5, dtype=torch.float64)
    faint = flat + 0.001 * pixels(1)  # below half a grey level
    assert zncc(textured, flat) == zncc(faint, textured) == 0
    assert math.isnan(zncc(flat, faint))
    assert zncc(textured, flat + 0.01 * textured) == pytest.approx(1)


def test_sums_do_not_depend_on_blocks():
    own, other = torch.rand(2, 3, 300, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = torch.arange(100_003)  # more than one block, and no whole number of them
    xy = 2 * torch.rand(len(index), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 1
    assert len(index) > BLOCK
    for channel in WarpedPair(0, 1, own, other, index, xy).channels():
        torch.testing.assert_close(channel.sums(), pixel_sums(*channel.at()), rtol=1e-12, atol=0)


def score(images):
    metric, (K, R) = OverlapZNCC(overlap_size=0), RIG.cameras()
    metric.update(ScoredSample("s", images, K, R, [""] * 8), False)
    return metric.compute()["overlap_zncc"].value


def test_is_the_mean_over_pairs_of_the_warped_views():
    images = torch.from_numpy(views(0, noise=0.2)).permute(0, 3, 1, 2)
    expected = [
        zncc(*torch.stack([one.at() for one in pair.channels()], dim=1))
        for pair in warped_views(images, *RIG.cameras(), size=None)
    ]
    assert len(expected) == 8
    assert score(images) == pytest.approx(np.mean(expected))


def test_views_that_agree_are_near_1_mirrored_ones_are_not_and_faint_ones_score_alike():
    images = torch.from_numpy(views(0)).permute(0, 3, 1, 2)
    faint = ((images.float() - 127.5) * 0.1 + 127.5).round().byte()
    assert score(images) > 0.99
    assert score(faint) == pytest.approx(score(images), abs=0.01)
    assert score(images.flip(-1)) < 0.9


def write_flat(root, grey):
    record = SampleRecord(f"flat{grey}", ["a wall"] * 8, rig=RIG.to_dict())
    write_sample(sample_folder(root, record.sample_id), record, np.full((8, 12, 12, 3), grey, dtype=np.uint8))


def test_flat_samples_are_left_out_and_missing_alone(tmp_path):
    write_flat(tmp_path, 90)
    entry = evaluate(tmp_path, None, ["overlap_zncc"], AS_IS)["metrics"]["overlap_zncc"]
    assert entry["missing"] == "no views that overlap have any contrast there."
    write_samples(tmp_path, num=2)
    entry = evaluate(tmp_path, None, ["overlap_zncc"], AS_IS)["metrics"]["overlap_zncc"]
    assert (list(entry["per_sample"]), entry["num_pairs"], entry["num_samples"]) == (["s0", "s1"], 16, 2)
    assert "mean over pairs, then samples; adjacent pairs; the images' own size" in entry["variant"]


def values_of(root, metric):
    return {name: entry["value"] for name, entry in evaluate(root, None, [metric], AS_IS)["metrics"].items()}


@pytest.mark.parametrize("metric", ["overlap_psnr", "overlap_zncc", "overlap_chance"])
def test_many_samples_without_overlap_take_no_room(tmp_path, metric):
    write_samples(tmp_path, num=2)
    expected = values_of(tmp_path, metric)
    for number in range(12):
        record = SampleRecord(f"t{number:02d}", ["a wall"], rig=ONE_VIEW.to_dict())
        write_sample(sample_folder(tmp_path, record.sample_id), record, np.zeros((1, 12, 12, 3), dtype=np.uint8))
    assert values_of(tmp_path, metric) == expected
