"""From uint8 images to FID, KID and Inception Score, against torch-fidelity and torchmetrics, with a network that sees.

The random network is calibrated: its features differ between images as those of a trained one do.
"""

import pytest
import torch

from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.inception_score import InceptionScore
from mvdiff.eval.metrics.kid import KID
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.weights import file_hash
from tests.eval.inception import write_random_inception


def pictures(seed, size, num=5):
    """Noise over blobs of colour: content at all scales, so that a resize with another filter gives other pixels."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randint(0, 200, (num, 3, 4, 4), generator=generator).float()
    noise = torch.randint(0, 56, (num, 3, size, size), generator=generator)
    return (torch.nn.functional.interpolate(blobs, size) + noise).to(torch.uint8)


GENERATED, REAL = pictures(0, 340), pictures(1, 340)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    calibration = pictures(2, 299, num=6)
    return write_random_inception(tmp_path_factory.mktemp("weights") / "calibrated.pth", calibration)


@pytest.fixture(scope="module")
def network(weights):
    return inception_extractor(weights, inception_hash=file_hash(weights))


@pytest.fixture(scope="module")
def ours(network):
    """FID, KID and Inception Score as an evaluation computes them, two samples on each side."""
    metrics = [FID(network=network), KID(network=network), InceptionScore(network=network, num_splits=1)]
    eye = torch.eye(3).expand(5, 3, 3)
    for real, images in ((False, GENERATED), (True, REAL)):
        for name, part in (("a", slice(0, 2)), ("b", slice(2, 5))):
            for metric in metrics:
                metric.update(ScoredSample(name, images[part], eye[part], eye[part], []), real)
    return {name: result.value for metric in metrics for name, result in metric.compute().items()}


def torchmetrics_features(weights, antialias):
    from torchmetrics.image.fid import NoTrainInceptionV3

    net = NoTrainInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights), antialias=antialias)
    with torch.no_grad():
        return [net._torch_fidelity_forward(images) for images in (GENERATED, REAL)]


@pytest.fixture(scope="module")
def plain(weights):
    return torchmetrics_features(weights, antialias=False)


def rotated(features):
    """Features in the few directions that they span: distances stay, and the libraries' roots of matrices are quick."""
    both = torch.cat(features).double()
    basis = torch.linalg.qr(both.T).Q
    return [part.double() @ basis for part in features]


def torchmetrics_scores(outputs):
    """FID, KID and Inception Score of torchmetrics on features that stand for images."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore as TheirScore
    from torchmetrics.image.kid import poly_mmd

    class Table(torch.nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.rows, self.num_features = rows, rows.shape[1]

        def forward(self, numbers):
            return self.rows[numbers.flatten().long()]

    features = rotated([output[0] for output in outputs])
    numbers = torch.arange(len(features[0])).view(-1, 1)
    fid = FrechetInceptionDistance(feature=Table(torch.cat(features))).set_dtype(torch.float64)
    fid.update(numbers, real=False)
    fid.update(numbers + len(numbers), real=True)
    score = TheirScore(feature=Table(outputs[0][1]), splits=1)
    score.update(numbers)
    kid = poly_mmd(outputs[1][0].double(), outputs[0][0].double())
    return {"fid": float(fid.compute()), "kid": float(kid), "inception_score": float(score.compute()[0])}


def test_the_calibrated_network_tells_images_apart(plain, ours):
    features, logits = plain[0]
    spread = features.std(dim=0).mean() / features.mean()
    assert spread > 0.05, "features vanish: the comparisons below could not fail"
    assert logits.std(dim=0).mean() > 0.5
    assert ours["fid"] > 1
    assert ours["inception_score"] > 1.1


def test_the_path_is_that_of_torchmetrics_without_antialias(plain, ours):
    for name, value in torchmetrics_scores(plain).items():
        assert ours[name] == pytest.approx(value, rel=1e-4), name


def test_torchmetrics_default_antialias_gives_other_numbers(weights, plain, ours):
    antialiased = torchmetrics_features(weights, antialias=True)
    assert not torch.allclose(antialiased[0][0], plain[0][0], rtol=1e-2)
    assert abs(torchmetrics_scores(antialiased)["fid"] / ours["fid"] - 1) > 1e-2


def test_the_path_is_that_of_torch_fidelity(weights, ours):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_featuresdict_to_metric
    from torch_fidelity.metric_kid import kid_featuresdict_to_metric
    from torch_fidelity.utils import get_featuresdict_from_dataset

    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights))
    options = {"batch_size": 5, "cuda": False, "save_cpu_ram": True, "verbose": False}
    theirs = [get_featuresdict_from_dataset(_Images(images), net, **options) for images in (GENERATED, REAL)]
    theirs = [{name: rows.double() for name, rows in one.items()} for one in theirs]  # float32 rounds KID at 3e-4
    kid = kid_featuresdict_to_metric(*theirs, "2048", kid_subsets=1, kid_subset_size=5, verbose=False)
    score = isc_featuresdict_to_metric(theirs[0], "logits_unbiased", isc_splits=1, verbose=False)
    statistics = [fid_features_to_statistics(part) for part in rotated([one["2048"] for one in theirs])]
    fid = fid_statistics_to_metric(*statistics, verbose=False)
    assert ours["fid"] == pytest.approx(fid["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-4)
    assert ours["inception_score"] == pytest.approx(score["inception_score_mean"], rel=1e-4)


class _Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]
