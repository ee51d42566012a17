"""Distances of resampled samples against the distances of their features, and the intervals that they give."""

import numpy as np
import pytest
import torch

from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.intervals import interval
from mvdiff.eval.metrics.erp_fid import IMAGES, PanoramaFID
from mvdiff.eval.metrics.fid import FID, ResampledFrechet, frechet_distance
from mvdiff.eval.metrics.kid import KID, ResampledKernel, kernel_distance
from mvdiff.eval.metrics.realnet import Realnet
from mvdiff.eval.paired import paired_distance, paired_fid
from mvdiff.eval.runner import evaluate
from mvdiff.eval.sample import ScoredSample
from tests.eval.worlds import write_samples

SIZES = (3, 1, 4, 2, 5, 3, 2, 4)


def samples(num_features, seed=0, sizes=SIZES):
    """Features of samples with unequal numbers of views; views of a sample resemble each other."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(sizes), num_features, generator=draw)
    return [c + 0.3 * torch.randn(n, num_features, generator=draw) for c, n in zip(centres, sizes, strict=True)]


def reference(num_features, num_images=40):
    return 1.5 * torch.randn(num_images, num_features, generator=torch.Generator().manual_seed(9)) + 0.2


@pytest.mark.parametrize("num_features", [3, 60])  # fewer and more than images
@pytest.mark.parametrize("drawn", [range(8), [0, 0, 2, 5, 5, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]], ids=str)
def test_frechet_of_drawn_samples_is_that_of_their_features(num_features, drawn):
    own, real = samples(num_features), reference(num_features)
    found = ResampledFrechet(own, real)(np.array(drawn, dtype=float))
    assert found == pytest.approx(frechet_distance(torch.cat([own[i] for i in drawn]), real), rel=1e-6)


def test_kernel_of_all_or_some_samples_is_that_of_their_features():
    own, real = samples(5), reference(5, num_images=7)
    resampled = ResampledKernel(own, real)
    for drawn in (range(8), [1, 2, 3, 4, 5, 6, 7], [6, 0]):
        found = resampled(np.array(drawn, dtype=float))
        assert found == pytest.approx(kernel_distance(torch.cat([own[i] for i in drawn]), real), rel=1e-9)


def test_copies_of_a_sample_are_not_compared_with_each_other():
    own, real = samples(5), reference(5)
    drawn = [0, 0, 3, 5, 5, 5]
    images = [(copy, i, own[i][v].double()) for copy, i in enumerate(drawn) for v in range(len(own[i]))]
    pairs = [
        float((a @ b / 5 + 1) ** 3)
        for x, (copy_a, i, a) in enumerate(images)
        for y, (copy_b, j, b) in enumerate(images)
        if x != y and (i != j or copy_a == copy_b)
    ]
    every, truth = torch.stack([image for _, _, image in images]), real.double()
    cross = ((every @ truth.T / 5 + 1) ** 3).mean()
    others = (((truth @ truth.T / 5 + 1) ** 3).sum() - ((truth.square().sum(1) / 5 + 1) ** 3).sum()) / (40 * 39)
    expected = float(np.mean(pairs) + others - 2 * cross)
    assert ResampledKernel(own, real)(np.array(drawn)) == pytest.approx(expected, rel=1e-9)


def test_resampling_raises_a_frechet_distance_and_the_interval_takes_it_off():
    own, real, indices = samples(20, sizes=(4,) * 40), reference(20, 160), np.arange(40)
    raw = interval(ResampledFrechet(own, real), indices, num_resamples=200)
    shifted = interval(ResampledFrechet(own, real), indices, num_resamples=200, unbiased=False)
    assert raw.low > raw.estimate
    assert shifted.low < shifted.estimate < shifted.high
    assert shifted.high - shifted.low == pytest.approx(raw.high - raw.low)
    assert shifted.rule == "percentile bootstrap less its bias, 40 samples, 200 resamples"
    kernel = interval(ResampledKernel(own, real), indices, num_resamples=400)
    assert (kernel.low + kernel.high) / 2 == pytest.approx(kernel.estimate, abs=0.2 * (kernel.high - kernel.low))


def test_the_jackknife_leaves_out_one_sample_at_a_time():
    own, real = samples(4), reference(4)
    found = interval(ResampledFrechet(own, real), np.arange(8), unbiased=False)
    left_out = [frechet_distance(torch.cat(own[:i] + own[i + 1 :]), real) for i in range(8)]
    margin = 2.364624 * np.sqrt(7 * np.var(left_out))  # 97.5 % quantile of Student's t with 7 degrees of freedom
    assert found.ends == pytest.approx((found.estimate - margin, found.estimate + margin), rel=1e-5)


def test_paired_distances_resample_both_methods_alike():
    own, other = ({f"s{i}": part for i, part in enumerate(samples(4, seed))} for seed in (0, 1))
    real = reference(4)
    for resampled, distance in ((ResampledFrechet, frechet_distance), (ResampledKernel, kernel_distance)):
        found = paired_distance(resampled, own, other, real)
        expected = [distance(torch.cat(list(part.values())), real) for part in (own, other)]
        assert found.estimate == pytest.approx(expected[0] - expected[1], rel=1e-6)
        same = paired_distance(resampled, own, own, real)
        assert (same.estimate, same.low, same.high) == (0, 0, 0)
    del other["s3"]
    assert paired_fid(own, other, real).rule == "none: 7 samples, fewer than 8"


@pytest.mark.parametrize(
    ("num", "fid_resamples", "rule"), [(7, 0, "none: 7"), (8, 0, "Student"), (30, 0, None), (30, 100, "percentile")]
)
def test_which_intervals_a_run_gives(tmp_path, num, fid_resamples, rule):
    """KID always has one from 8 samples on; FID from 30 on only where it is asked for."""
    network = FeatureExtractor("pixels", "", 6, lambda images: (images.double().flatten(1)[:, 50:56], None), "as is")
    root, real = write_samples(tmp_path / "a", num, noise=0.2), write_samples(tmp_path / "b", 3)
    metrics = [FID(network=network, fid_resamples=fid_resamples), KID(network=network, num_resamples=100)]
    found = evaluate(root, real, metrics)["metrics"]
    assert found["fid"].get("interval_rule", "").startswith(rule or "")
    assert ("interval_rule" in found["fid"]) == (rule is not None)
    assert ("interval" in found["kid"]) == (num >= 8)
    for name in ("fid", "kid"):
        if "interval" in found[name]:
            assert found[name]["interval"][0] < found[name]["value"] < found[name]["interval"][1]
    assert (found["fid"]["distance"], found["kid"]["distance"]) == ("frechet", "kernel")


@pytest.mark.parametrize(("kind", "rows"), [(Realnet, ["features"]), (PanoramaFID, list(IMAGES))], ids=["views", "erp"])
def test_distances_of_other_images_have_the_intervals_of_fid(kind, rows):
    network = FeatureExtractor("pixels", "", 4, lambda images: (images, None), "as is")
    own, real = samples(4, sizes=(2,) * 30), samples(4, seed=1, sizes=(2,) * 5)
    expected = interval(ResampledFrechet(own, torch.cat(real)), np.arange(30), num_resamples=100, unbiased=False)
    for fid_resamples in (0, 100):
        metric = kind(network=network, fid_resamples=fid_resamples, num_resamples=100)
        for number, part in [*enumerate(own), *enumerate(real, 100)]:
            sample = ScoredSample(f"s{number:03d}", torch.zeros(0), torch.zeros(0), torch.zeros(0), [])
            for name in rows:
                metric.append(name, sample, number >= 100, part)
        found = {name: one.interval for name, one in kind.compute(metric).items()}
        assert found.pop("realnet_kid", expected).rule.endswith("30 samples, 100 resamples")
        assert len(found) == len(rows)
        assert all(one == (expected if fid_resamples else None) for one in found.values())
