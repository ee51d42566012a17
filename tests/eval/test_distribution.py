"""FID and Inception Score against torch-fidelity, torchmetrics and scipy on the same features."""

import numpy as np
import pytest
import scipy.linalg
import torch

from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.metrics.inception_score import inception_score
from mvdiff.eval.metrics.kid import kernel_distance


def features(num, dim, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(num, dim, generator=generator) @ mix + shift


def test_fid_matches_scipy_sqrtm():
    a, b = features(60, 8, 0), features(40, 8, 1, shift=0.5)
    cov_a, cov_b = np.cov(a.double().numpy(), rowvar=False), np.cov(b.double().numpy(), rowvar=False)
    gap = a.double().mean(0) - b.double().mean(0)
    expected = float(gap @ gap) + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("num", "dim"), [(80, 16), (10, 32)], ids=["regular", "singular"])
def test_fid_matches_torch_fidelity(num, dim):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(num, dim, 0).double(), features(num + 3, dim, 1).double()
    expected = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    assert frechet_distance(a, b) == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)


def test_fid_matches_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flatten(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1).double()

    images = torch.randint(0, 256, (70, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metric = FrechetInceptionDistance(feature=Flatten(), normalize=False).set_dtype(torch.float64)
    metric.update(images[:40], real=True)
    metric.update(images[40:], real=False)
    ours = frechet_distance(images[40:].flatten(1), images[:40].flatten(1))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-5)


def test_fid_properties():
    a, b = features(50, 6, 0), features(50, 6, 1)
    assert frechet_distance(a, a) < 1e-8
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a[torch.randperm(50)], b) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    with pytest.raises(ValueError, match="at least 2 images; got 1"):
        frechet_distance(a[:1], b)
    with pytest.raises(ValueError, match="reference"):
        frechet_distance(a, b[:, :3])


def test_inception_score_matches_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * features(57, 5, 2)
    order = torch.randperm(57, generator=torch.Generator().manual_seed(4))
    expected = isc_features_to_metric(logits[order], splits=10, shuffle=False)
    mean, std = inception_score(logits, num_splits=10, seed=4)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-9)


def test_inception_score_matches_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    class Logits(torch.nn.Module):
        num_features = 4

        def forward(self, images):
            return images.flatten(1)[:, :4].float() / 50

    images = torch.randint(0, 256, (40, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metric = InceptionScore(feature=Logits(), splits=5)
    metric.update(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # torchmetrics shuffles with the global generator
        expected, _ = metric.compute()
    assert inception_score(Logits()(images), 5, seed=7)[0] == pytest.approx(float(expected), rel=1e-5)


def test_inception_score_goldens():
    # Each of 4 classes named with certainty, equally often: exp(KL) = 4. All the same class: 1.
    certain = 100 * torch.eye(4).repeat(3, 1)
    assert inception_score(certain, num_splits=1)[0] == pytest.approx(4.0)
    assert inception_score(certain[:1].repeat(12, 1), num_splits=3) == (pytest.approx(1.0), pytest.approx(0.0))


def test_inception_score_order_is_seeded_and_splits_checked():
    logits = features(30, 5, 0)
    torch.manual_seed(1)
    first = inception_score(logits, 5, seed=0)
    torch.manual_seed(2)
    assert inception_score(logits, 5, seed=0) == first
    assert inception_score(logits, 5, seed=1) != first
    with pytest.raises(ValueError, match=r"num_splits must be between 1 and the number of images \(30\); got 31"):
        inception_score(logits, 31)


@pytest.mark.parametrize("num", [40, 9])
def test_kid_matches_torchmetrics(num):
    from torchmetrics.image.kid import poly_mmd

    a, b = features(num, 16, 0).double(), features(num, 16, 1, shift=0.3).double()
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(b, a)), rel=1e-9)


@pytest.mark.parametrize("num", [40, 9])
def test_kid_matches_torch_fidelity(num):
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    a, b = features(num, 16, 0).double(), features(num, 16, 1, shift=0.3).double()
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    expected = mmd2(*(kernel_poly(x.numpy(), y.numpy(), **options) for x, y in ((a, a), (a, b), (b, b))))
    assert kernel_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_kid_of_unequal_sizes_matches_naive_loop():
    a, b = features(7, 5, 0).double().numpy(), features(11, 5, 1, shift=0.3).double().numpy()

    def mean(one, other, same=False):
        values = [(x @ y / 5 + 1) ** 3 for i, x in enumerate(one) for j, y in enumerate(other) if not (same and i == j)]
        return np.mean(values)

    expected = mean(a, a, same=True) + mean(b, b, same=True) - 2 * mean(a, b)
    assert kernel_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)


def test_kid_of_samples_of_one_distribution_is_unbiased():
    """Its mean over draws is 0 within its spread, whatever the counts; a shift is seen."""
    pool = features(2000, 4, 0)
    draws = [kernel_distance(pool[30 * i : 30 * i + 10], pool[30 * i + 10 : 30 * i + 30]) for i in range(60)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5
    assert kernel_distance(pool[:50] + 2, pool[50:150]) > 10 * np.std(draws)
    with pytest.raises(ValueError, match="at least 2 images; got 1 and 5"):
        kernel_distance(pool[:1], pool[:5])
