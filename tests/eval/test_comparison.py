"""Differences between methods: against the functions behind them, and what is refused or cannot be compared."""

import json
import shutil

import pytest
import torch

from mvdiff.eval.comparability import differing, read_results
from mvdiff.eval.comparison import NO_CACHE, Difference, compare
from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.intervals import Interval
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.kid import ResampledKernel
from mvdiff.eval.paired import paired, paired_distance, paired_fid, sample_features
from mvdiff.eval.sources import FolderSource
from mvdiff.geometry.cameras import RingRig
from tests.eval.scored import score, score_methods
from tests.eval.worlds import write_samples


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two methods, the second with more noise, and the folder with their cache."""
    tmp_path = tmp_path_factory.mktemp("scored")
    paths = score_methods(tmp_path, {"clean": 0.05, "noisy": 0.3})
    return tmp_path, *(read_results(path) for path in paths.values())


def test_differences_are_those_of_the_functions_behind_them(scored):
    root, clean, noisy = scored
    found = compare(
        clean, noisy, ("clean", "noisy"), FeatureCache(root / "cache"), num_resamples=100, fid_resamples=100
    )
    for name in ("overlap_psnr_mean_of_pairs", "sharpness_gradient_energy"):
        assert found[name].interval == paired(noisy, clean, name, num_resamples=100)
        values = [results["metrics"][name]["value"] for results in (clean, noisy)]
        assert (found[name].base, found[name].value) == pytest.approx(values)
        assert found[name].interval.estimate == pytest.approx(values[1] - values[0])
    extractor = toy_extractor(root / "judge")
    features = [sample_features(FolderSource(root / name), extractor) for name in ("noisy", "clean", "real")]
    truth = torch.cat(list(features[2].values()))
    assert str(found["toy_fid"].interval) == str(paired_fid(*features[:2], truth, num_resamples=100))
    kid = paired_distance(ResampledKernel, *features[:2], truth, num_resamples=100)
    assert found["kid"].interval.ends == pytest.approx(kid.ends, rel=1e-6)
    for name in ("toy_fid", "kid"):
        assert found[name].base == pytest.approx(clean["metrics"][name]["value"], rel=1e-5)
        assert found[name].num_samples == 8
    verdicts = {name: one.verdict for name, one in found.items() if one.interval}
    assert verdicts.pop("kid") in ("worse", "no difference shown")
    assert verdicts == {
        "overlap_psnr_mean_of_pairs": "worse",
        "sharpness_gradient_energy": "higher",
        "sharpness_laplacian_variance": "higher",
        "toy_fid": verdicts["toy_fid"],
    }
    assert found["overlap_psnr_pooled"].reason == "it is no mean over samples and no distance of features"
    assert found["toy_inception_score"].is_expected


def test_the_other_way_round_every_sign_turns(scored):
    root, clean, noisy = scored
    there, back = (
        compare(*pair, ("a", "b"), FeatureCache(root / "cache"), 50, 20) for pair in ((clean, noisy), (noisy, clean))
    )
    for name, one in there.items():
        if one.interval:
            assert back[name].interval.estimate == pytest.approx(-one.interval.estimate)
            assert back[name].interval.low == pytest.approx(-one.interval.high)
            assert {one.verdict, back[name].verdict} in (
                {"better", "worse"},
                {"higher", "lower"},
                {"no difference shown"},
            )


def test_a_method_equals_itself(scored):
    root, clean, _ = scored
    for one in compare(clean, clean, ("a", "b"), FeatureCache(root / "cache"), 20, 5).values():
        if one.interval:
            assert (one.interval.estimate, *one.interval.ends) == (0, 0, 0)
            assert one.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("higher", "ends", "verdict"),
    [
        (True, (0.1, 0.3), "better"),
        (True, (-0.3, -0.1), "worse"),
        (False, (0.1, 0.3), "worse"),
        (False, (-0.3, -0.1), "better"),
        (None, (0.1, 0.3), "higher"),
        (None, (-0.3, -0.1), "lower"),
        (True, (-0.1, 0.3), "no difference shown"),
        (False, (0.0, 0.3), "no difference shown"),
        (True, (None, None), "too few samples"),
    ],
)
def test_verdicts(higher, ends, verdict):
    column = Column("a", "a", higher_is_better=higher)
    assert Difference(column, 0.0, 0.2, Interval(0.2, *ends, 0.95), 9).verdict == verdict


def test_without_features_the_reason_says_how_to_get_them(scored, tmp_path):
    root, clean, noisy = scored
    found = compare(clean, noisy, ("clean", "noisy"))
    assert found["toy_fid"].reason == found["kid"].reason == NO_CACHE
    assert found["toy_fid"].is_expected
    shutil.copytree(root / "cache", tmp_path / "cache")
    [path, *_] = sorted((tmp_path / "cache").rglob("*.safetensors"))
    path.unlink()
    lacking = compare(clean, noisy, ("clean", "noisy"), FeatureCache(tmp_path / "cache"))["toy_fid"]
    assert "images of" in lacking.reason
    assert f"are not in {tmp_path / 'cache'}. Run mvdiff evaluate with --cache" in lacking.reason
    assert not lacking.is_expected


def test_features_that_do_not_give_the_recorded_number_are_not_compared(scored):
    root, clean, noisy = scored
    wrong = json.loads(json.dumps(noisy))
    wrong["metrics"]["toy_fid"]["value"] *= 1.01
    found = compare(clean, wrong, ("clean", "noisy"), FeatureCache(root / "cache"))["toy_fid"]
    assert "the cached features of noisy give" in found.reason


def test_what_differs_is_named(scored, tmp_path):
    root, clean, noisy = scored
    names = ("clean", "noisy")
    assert differing(clean, noisy, names) == []

    def changed(**changes):
        return json.loads(json.dumps(noisy)) | changes

    values = json.loads(json.dumps(noisy["protocol"]["values"]))
    values["settings"]["overlap_size"] = 24
    assert differing(clean, changed(protocol={"id": "custom", "hash": "x", "values": values}), names) == [
        "protocol: settings.overlap_size is 0 in clean, 24 in noisy"
    ]
    assert differing(clean, changed(protocol=noisy["protocol"] | {"id": "mine-v1"}), names)[0] == (
        "protocol: custom in clean, mine-v1 in noisy"
    )
    assert "noisy records none" in differing(clean, changed(protocol=None), names)[0]
    assert differing(clean, changed(reference=None), names) == ["reference: noisy has none"]
    images = dict(noisy["reference"]["images"]) | {"s2": ["0"]}
    del images["s4"]
    reference = noisy["reference"] | {"content_hash": 64 * "f", "images": images}
    [line] = differing(clean, changed(reference=reference), names)
    assert "ffffffffffff in noisy" in line
    assert "images of s2 differ; only one has s4" in line
    few = {name: hashes for name, hashes in noisy["generated"]["images"].items() if name not in ("s0", "s7")}
    generated = noisy["generated"] | {"images": few}
    assert differing(clean, changed(generated=generated), names) == ["samples: only clean has s0, s7"]
    other = changed()
    other["metrics"]["toy_fid"]["weights_hash"] = 64 * "a"
    other["metrics"]["kid"]["variant"] = "resized"
    lines = differing(clean, other, names)
    assert len(lines) == 2
    assert any(line.startswith("toy_fid: weights ") and line.endswith(", aaaaaaaaaaaa in noisy") for line in lines)
    assert any(line.startswith("kid: variant ") and line.endswith(", resized in noisy") for line in lines)
    found = compare(clean, other, names, FeatureCache(root / "cache"))
    assert found["toy_fid"].reason.startswith("measured in different ways: weights")


def test_views_of_another_size_are_refused(scored):
    root, clean, _ = scored
    large = RingRig(num_views=8, height=24, width=24)
    other = read_results(score(root, write_samples(root / "large", 8, 0.3, large)))
    line = "sizes: those of s0, s1, s2, s3, s4 and 3 more differ: 12x12 in clean, 24x24 in large (height x width)"
    assert differing(clean, other, ("clean", "large")) == [line]


def test_files_of_version_1_compare_their_settings_but_not_their_references(scored):
    _, clean, noisy = scored
    old = [json.loads(json.dumps(results)) for results in (clean, noisy)]
    for results in old:
        results |= {"schema_version": 1, "reference": {"path": "real"}}
        del results["protocol"], results["generated"]["images"]
    assert differing(*old, ("a", "b")) == ["reference: a records no hash of its images; evaluate it again"]
    old[1]["settings"]["overlap_size"] = 7
    assert "protocol: overlap_size is 0 in a, 7 in b" in differing(*old, ("a", "b"))


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("metrics",), [], "must be a results file"),
        (("metrics", "toy_fid", "value"), "x", r"metrics\.toy_fid\.value"),
        (("metrics", "overlap_psnr_mean_of_pairs", "per_sample"), {"s0": "x"}, r"per_sample must be numbers"),
        (("generated", "images"), {"s0": "x"}, r"generated\.images must be lists"),
        (("reference", "images"), ["x"], r"reference\.images must be lists"),
        (("generated", "geometry"), {"s0": ["x"]}, r"generated\.geometry must be texts"),
        (("generated", "whole_views"), {"s0": [8]}, r"generated\.whole_views must be lists of indices of views"),
    ],
)
def test_a_wrong_results_file_is_one_sentence(scored, tmp_path, place, value, text):
    results = json.loads(json.dumps(scored[1]))
    *above, last = place
    entry = results
    for key in above:
        entry = entry[key]
    entry[last] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=text):
        read_results(path)


def test_features_serve_methods_of_unequal_samples(scored):
    """Only what both have is compared, with the reference as it is."""
    root, clean, _ = scored
    fewer = read_results(score(root, write_samples(root / "fewer", 7, 0.3)))
    found = compare(clean, fewer, ("clean", "fewer"), FeatureCache(root / "cache"))["toy_fid"]
    assert found.num_samples == 7
    assert found.verdict == "too few samples"
    assert found.value == pytest.approx(fewer["metrics"]["toy_fid"]["value"], rel=1e-5)
