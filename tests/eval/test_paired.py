"""Paired differences of two methods' results."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.intervals import paired_difference
from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.paired import paired, paired_fid, sample_features
from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.sources import FolderSource
from tests.eval.worlds import write_judge, write_samples


def scored(values, **entry):
    return {"metrics": {"clip_score": {"value": 0.0, "model": "clip", "per_sample": values} | entry}}


def test_samples_are_matched_by_id():
    ours, base = scored({"a": 1.0, "b": 5.0, "c": 9.0}), scored({"d": 0.0, "c": 8.0, "b": 2.0})
    found = paired(ours, base, "clip_score", seed=3)
    assert found == paired_difference([5.0, 9.0], [2.0, 8.0], seed=3)
    assert found.estimate == 2.0  # (5 - 2 + 9 - 8) / 2, positive: more than the other
    assert paired(base, ours, "clip_score").estimate == -2.0


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"metrics": {}}, "metric must have per-sample values in both results; got clip_score"),
        ({"metrics": {"clip_score": {"missing": "no weights"}}}, "metric must have per-sample values in both results"),
        (
            scored({"a": 1.0}, model="other"),
            "clip_score must be measured in the same way in both results; got model 'clip' and",
        ),
        (scored({"z": 1.0}), r"paired methods must share samples; got 1 and 1"),
    ],
)
def test_what_cannot_be_paired_is_named(other, text):
    with pytest.raises(ValueError, match=text):
        paired(scored({"a": 1.0}), other, "clip_score")


def test_results_files_of_two_methods(tmp_path):
    toy = EvaluationSettings(
        toy_features=str(write_judge(tmp_path / "judge")), overlap_size=0, num_splits=2, num_resamples=100
    )
    roots = write_samples(tmp_path / "a", num=8), write_samples(tmp_path / "b", num=8, noise=0.2)
    reference = write_samples(tmp_path / "c", num=6)
    metrics = ("overlap_psnr", "sharpness", "toy_fid")
    own, other = (
        json.loads(write_results(evaluate(root, reference, metrics, toy), root / "results.json").read_text())
        for root in roots
    )
    for name in ("overlap_psnr_mean_of_pairs", "sharpness_gradient_energy", "sharpness_laplacian_variance"):
        difference = own["metrics"][name]["value"] - other["metrics"][name]["value"]
        found = paired(own, other, name, num_resamples=100)
        assert found.estimate == pytest.approx(difference)
        assert found.low <= found.estimate <= found.high
    with pytest.raises(ValueError, match=r"got overlap_psnr_pooled.* overlap_psnr_mean_of_pairs"):
        paired(own, other, "overlap_psnr_pooled")
    extractor = toy_extractor(toy.toy_features)
    features = [sample_features(FolderSource(root), extractor) for root in (*roots, reference)]
    truth = torch.cat(list(features[2].values()))
    found = paired_fid(features[0], features[1], truth, num_resamples=100)
    difference = own["metrics"]["toy_fid"]["value"] - other["metrics"]["toy_fid"]["value"]
    assert found.estimate == pytest.approx(difference, rel=1e-6)
    # The same panorama is left out of both: by hand, Tukey's pseudo-values and their t-test.
    pseudo = []
    for out in features[0]:
        a, b = (
            frechet_distance(torch.cat([value for name, value in part.items() if name != out]), truth)
            for part in features[:2]
        )
        pseudo.append(8 * difference - 7 * (a - b))
    margin = np.ptp(scipy.stats.ttest_1samp(pseudo, 0).confidence_interval(0.95)) / 2
    assert found.ends == pytest.approx((difference - margin, difference + margin), rel=1e-5)
