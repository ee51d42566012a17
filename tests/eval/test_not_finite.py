"""A feature, logit, depth or camera that is not finite makes its metric missing, names the sample, stops no other."""

import math
from dataclasses import replace

import pytest
import torch

from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.features import ToyFeatureNet, ToyJudge
from mvdiff.eval.metrics.caption_agreement import CaptionAgreement
from mvdiff.eval.metrics.clip_score import ClipScore, ClipScorer
from mvdiff.eval.metrics.fid import FID, frechet_distance
from mvdiff.eval.metrics.given import Given
from mvdiff.eval.metrics.inception_score import InceptionScore, inception_score
from mvdiff.eval.metrics.kid import KID, kernel_distance
from mvdiff.eval.metrics.overlap_psnr import OverlapPSNR
from mvdiff.eval.metrics.sharpness import Sharpness
from mvdiff.eval.metrics.thing_colours import ThingColours
from mvdiff.eval.runner import evaluate, evaluate_each
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource
from mvdiff.text_context import clip_context
from tests.eval.worlds import HEADS, write_samples
from tests.extend.outside.my_metric import Brightness


class Samples:
    """Three samples; `spoil` changes the second."""

    def __init__(self, root, spoil=lambda sample: sample):
        first, second, third = FolderSource(write_samples(root, num=3))
        self.samples = [first, spoil(second), third]

    def __iter__(self):
        return iter(self.samples)

    def describe(self):
        return {"path": "memory", "num_samples": 3}


def grey(sample):
    """Constant images, whose contrast is zero."""
    return replace(sample, images_uint8=torch.full_like(sample.images_uint8, 128))


def nan_pixels(sample):
    images = sample.images_uint8.float() / 127.5 - 1
    images[2, 0, 3, 3] = math.nan
    return replace(sample, images_uint8=images)


def nan_camera(sample):
    return replace(sample, K=sample.K * math.nan)


def nan_depth(sample):
    depths = torch.full((8, 12, 12), 2.0)
    depths[1, 0, 0] = math.nan
    return replace(sample, depths=depths)


def contrast(images):
    """Features of images divided by their contrast, and logits: NaN for a constant image."""
    pixels = images.double().flatten(1)
    scaled = (pixels - pixels.mean(1, keepdim=True)) / pixels.std(1, keepdim=True)
    return scaled[:, :6], scaled[:, :4]


def network():
    return FeatureExtractor("contrast", "", 6, contrast, "as they are")


def clip():
    def embed(images, prompts):
        return contrast(images)[0], torch.ones(len(prompts), 6)

    return ClipScorer("contrast", "", embed, clip_context())


def spoilt_judge():
    torch.manual_seed(0)
    net = ToyFeatureNet(HEADS, width=8, num_features=16)
    net.heads["walls"].bias.data.fill_(math.nan)
    return ToyJudge(net.eval(), "")


def given(sample):
    known = torch.zeros(8, 1, 12, 12)
    known[0] = 1
    return replace(sample, given=(sample.images_uint8, known))


THINGS = {f"s{i}": (torch.zeros(8, 12, 12, dtype=torch.long), ["red"]) for i in range(3)}
CASES = {
    "fid": (lambda: FID(network=network()), grey, "features must be finite"),
    "kid": (lambda: KID(network=network()), grey, "features must be finite"),
    "inception_score": (lambda: InceptionScore(network=network(), num_splits=2), grey, "logits must be finite"),
    "clip_score": (lambda: ClipScore(network=clip()), grey, "clip_score must be finite"),
    "overlap, depth": (lambda: OverlapPSNR(overlap_size=0), nan_depth, "depths must be finite"),
    "overlap, camera": (lambda: OverlapPSNR(overlap_size=0), nan_camera, "K must be finite"),
    "overlap, pixels": (lambda: OverlapPSNR(overlap_size=0), nan_pixels, "images must be finite"),
    "sharpness": (Sharpness, nan_pixels, "sharpness_gradient_energy must be finite"),
    "thing_colours": (lambda: ThingColours(things=THINGS), nan_pixels, "images must be finite"),
    "given": (Given, lambda sample: nan_camera(given(sample)), "K must be finite"),
    "a user's": (lambda: Brightness(scale=1.0), nan_pixels, "brightness must be finite"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_metric_is_missing_names_the_sample_and_the_others_come_out(tmp_path, name):
    build, spoil, text = CASES[name]
    metric = build()
    real = Samples(tmp_path / "real")
    found = evaluate(Samples(tmp_path / "a", spoil), real, [metric, Columns()])["metrics"]
    for column in metric.columns:
        assert text in found[column.name]["missing"]
        assert found[column.name]["missing"].endswith("(at generated sample 's1')")
    assert found["num_columns"]["value"] == 12


class Columns(Brightness):
    """A metric that nothing spoils: the width of the images."""

    name = "num_columns"
    columns = (replace(Brightness.columns[0], name="num_columns"),)

    def measure(self, sample):
        return {"num_columns": sample.images_uint8.shape[-1]}


def test_a_judge_with_nan_logits_names_the_sample(tmp_path):
    truth = [{"walls": "white"}] * 8
    stated = Samples(tmp_path / "a", lambda sample: replace(sample, truth=truth))
    found = evaluate(stated, None, [CaptionAgreement(network=spoilt_judge())])["metrics"]
    assert found["label_agreement"]["missing"] == (
        "logits must be finite; got NaN or infinity. (at generated sample 's1')"
    )


def test_a_spoilt_method_leaves_the_others_alone(tmp_path):
    metrics = [FID(network=network()), InceptionScore(network=network(), num_splits=2)]
    methods = {"bad": Samples(tmp_path / "a", grey), "good": Samples(tmp_path / "b")}
    found = evaluate_each(methods, Samples(tmp_path / "real"), metrics, EvaluationSettings())
    for name in ("fid", "inception_score"):
        assert "'s1'" in found["bad"]["metrics"][name]["missing"]
        assert math.isfinite(found["good"]["metrics"][name]["value"])


def test_a_spoilt_reference_is_not_used_in_part(tmp_path):
    metrics = [FID(network=network()), InceptionScore(network=network(), num_splits=2)]
    found = evaluate(Samples(tmp_path / "a"), Samples(tmp_path / "real", grey), metrics)["metrics"]
    assert found["fid"]["missing"].startswith("reference: features must be finite; ")
    assert found["fid"]["missing"].endswith("(at reference sample 's1')")
    assert "(at reference sample 's1')" in found["inception_score"]["lacks"][0]
    assert "reference" not in found["inception_score"]


def test_functions_refuse_what_is_not_finite():
    values = torch.randn(6, 3)
    broken = values.clone()
    broken[2, 1] = math.nan
    for score in (
        lambda: frechet_distance(broken, values),
        lambda: frechet_distance(values, broken),
        lambda: kernel_distance(values, broken),
        lambda: inception_score(torch.full((6, 3), math.nan), 2),
        lambda: inception_score(values * math.inf, 2),
    ):
        with pytest.raises(ValueError, match=r"must be finite; got NaN or infinity in \d+ of 18 values"):
            score()
