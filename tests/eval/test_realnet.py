"""EfficientNet-Lite0: the pinned network, planted blur, and the values on real panoramas where they are."""

import pytest
import torch

from benchmarks.realnet import NOISES, SIGMAS, blurred, distances, noisy
from mvdiff.eval import realnet
from mvdiff.eval.metric_specs import MetricBuilder
from mvdiff.eval.metrics import metric_class
from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.metrics.kid import kernel_distance
from mvdiff.eval.realnet import realnet_extractor
from mvdiff.eval.sample import ScoredSample

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra: pip install 'mvdiff[realnet]'")

BLURS = [f"blur, sigma {sigma}" for sigma in SIGMAS]
NOISY = [f"noise of {levels} levels" for levels in NOISES]


@pytest.fixture(scope="module")
def network():
    return realnet_extractor()


def shapes(num, seed, size=224):
    """Pictures of sharp rectangles in random colours."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (num, 3, 1, 1), generator=generator).expand(num, 3, size, size).clone()
    for picture in pictures:
        for _ in range(30):
            y, x = torch.randint(0, size, (2,), generator=generator).tolist()
            h, w = torch.randint(4, size // 3, (2,), generator=generator).tolist()
            picture[:, y : y + h, x : x + w] = torch.randint(0, 256, (3, 1, 1), generator=generator)
    return pictures.to(torch.uint8)


def test_the_network_is_the_pinned_one_and_knows_images(network):
    assert network.weights_hash == realnet.WEIGHTS_HASH
    features, logits = network(shapes(3, seed=0, size=300))
    assert features.shape == (3, 1280)
    assert logits is None
    assert features.std(dim=0).mean() > 0.01
    assert not features.requires_grad


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(realnet, "WEIGHTS_HASH", "0" * 64)
    with pytest.raises(ValueError, match=r"SHA-256 0000000000000000\.\.\.; got 579344248a93e230, in .*pth"):
        realnet_extractor()


def test_without_the_packages_the_metric_is_missing_with_the_command(monkeypatch, tmp_path):
    from mvdiff.eval.runner import evaluate
    from tests.eval.worlds import write_samples

    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    root = write_samples(tmp_path / "a", num=1)
    metrics = evaluate(root, root, ["realnet"])["metrics"]
    assert set(metrics) == {"realnet_distance", "realnet_kid"}
    assert all('pip install "mvdiff[realnet]"' in entry["missing"] for entry in metrics.values())


def test_every_blur_raises_both_distances_further_and_noise_raises_them(network):
    """Noise on flat planted shapes is texture, so more of it need not be further; real pictures are in real-data.md."""
    own, draw = shapes(6, seed=2), torch.Generator().manual_seed(0)
    reference, unchanged = network(shapes(6, seed=1))[0], network(own)[0]
    blurs = [network(blurred(own, sigma))[0] for sigma in SIGMAS[:3]]  # rectangles are gone at 4 pixels already
    noises = [network(noisy(own, levels, draw))[0] for levels in NOISES]
    for distance in (frechet_distance, kernel_distance):
        values = [distance(one, reference) for one in (unchanged, *blurs)]
        assert values == sorted(set(values)), values
        assert min(distance(one, reference) for one in noises) > values[0]


def test_the_metric_gives_both_distances_of_its_features(network):
    metric = MetricBuilder({"seed": 0}).build(metric_class("realnet"), {"network": network})
    eye = torch.eye(3).expand(2, 3, 3)
    images = {real: [shapes(2, seed=10 * real + number) for number in range(2)] for real in (False, True)}
    for real, parts in images.items():
        for number, part in enumerate(parts):
            metric.update(ScoredSample(f"s{number}", part, eye, eye, []), real)
    own, real = (network(torch.cat(images[side]))[0] for side in (False, True))
    results = metric.compute()
    assert results["realnet_distance"].value == pytest.approx(frechet_distance(own, real), rel=1e-4)
    assert results["realnet_kid"].value == pytest.approx(kernel_distance(own, real), rel=1e-3)
    assert results["realnet_kid"].weights_hash == realnet.WEIGHTS_HASH
    assert results["realnet_distance"].n["num_samples"] == 2


@pytest.mark.slow
def test_real_panoramas_are_where_they_were_measured(test_data):
    """Two halves of 74 panoramas, one of them changed: within 5 % of an independent implementation."""
    expected = dict(
        zip(("none", *BLURS, *NOISY), (128.0, 150.5, 182.0, 256.3, 333.5, 139.4, 157.6, 193.1), strict=True)
    )
    measured = distances(str(test_data / "data" / "mp3d_skybox"), size=224)
    found = {name: frechet for name, frechet, _ in measured}
    assert found == pytest.approx(expected, rel=0.05)
    for changes in (BLURS, NOISY):
        values = [found[name] for name in ("none", *changes)]
        assert values == sorted(set(values))
