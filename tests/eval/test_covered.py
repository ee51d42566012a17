"""Partial panoramas: no metric counts a pixel that they do not show."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.importing.pictures import find_pictures
from mvdiff.eval.comparison import compare
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.metric import Column, PerSampleMetric
from mvdiff.eval.overlap import overlap_errors
from mvdiff.eval.runner import evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.shortcomings import left_out
from mvdiff.eval.sources import FolderSource
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.importing import import_samples, picture_reader
from tests.eval.worlds import RIG, views, write_judge, write_samples
from tests.files.pictures import gpano, save_with_xmp

H, W = 48, 96


class SeenViews(PerSampleMetric):
    """Number of views that a metric of whole views gets, and their darkest pixel."""

    name = "seen_views"
    columns = (Column("num_seen", "views"), Column("darkest", "level"))

    def measure(self, sample):
        assert len(sample.prompts) == len(sample.K) == len(sample.images_uint8)
        return {"num_seen": len(sample.images_uint8), "darkest": float(sample.images_uint8.min())}


def crop(path, left, width):
    """Save all rows of some columns of a bright panorama."""
    y, x = np.mgrid[:H, :W]
    pixels = np.stack([128 + 100 * np.sin(2 * np.pi * x / W), 60 + 2 * y, 128 + 0 * x], -1).astype(np.uint8)
    offsets = f'GPano:CroppedAreaLeftPixels="{left}" GPano:CroppedAreaTopPixels="0" GPano:ProjectionType'
    xmp = gpano((W, H), (width, H)).replace(b"GPano:ProjectionType", offsets.encode())
    save_with_xmp(path, np.ascontiguousarray(pixels[:, left : left + width]), xmp)


@pytest.fixture
def partial(tmp_path):
    """Samples of a little more than the front half of a sphere, and of a quarter of it that fills no view."""
    (tmp_path / "crops").mkdir()
    crop(tmp_path / "crops" / "half.png", 22, 52)
    crop(tmp_path / "crops" / "sliver.png", 60, 20)
    found = find_pictures(tmp_path / "crops", "erp")
    rig = RingRig(num_views=8, height=16, width=16)
    import_samples(found, picture_reader("erp", found.root, rig), tmp_path / "out")
    return tmp_path / "out"


def test_metrics_get_whole_views_alone(partial):
    results = evaluate(partial, None, [SeenViews(), "overlap_psnr"], EvaluationSettings(overlap_size=0))
    seen = results["metrics"]["num_seen"]
    assert (seen["value"], list(seen["per_sample"])) == (3, ["half"])
    assert results["metrics"]["darkest"]["value"] > 25  # the uncovered pixels are 0
    *lines, last = left_out(results)
    assert [line.split(" views of ")[0] for line in lines] == ["left out 5 of 8", "left out 8 of 8"]
    assert last == "num_seen, darkest: measured on 1 of 2 samples"
    assert results["metrics"]["overlap_psnr_mean_of_pairs"]["num_samples"] == 2


def test_distances_of_whole_views_are_compared(partial, tmp_path):
    other = shutil.copytree(partial, tmp_path / "other")
    for path in (other / "half").glob("?.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    judge, real = write_judge(tmp_path / "judge"), write_samples(tmp_path / "real", num=3)
    settings, cache = EvaluationSettings(toy_features=str(judge)), FeatureCache(tmp_path / "cache")
    results = [evaluate(root, real, ["toy_fid"], settings, cache=cache) for root in (partial, other)]
    assert results[0]["generated"]["whole_views"] == {"half": [0, 1, 7], "sliver": []}
    assert "whole_views" not in results[0]["reference"]
    found = compare(*results, ("partial", "other"), FeatureCache(tmp_path / "cache"))["toy_fid"]
    assert (found.reason, found.num_samples) == (None, 1)
    for value, one in zip((found.base, found.value), results, strict=True):
        assert value == pytest.approx(one["metrics"]["toy_fid"]["value"], rel=1e-4)
    assert found.base != pytest.approx(found.value)


def test_samples_keep_the_mark(partial):
    half, _ = FolderSource(partial)
    assert half.given is None
    assert half.covered.shape == (8, 1, 16, 16)
    assert not half.images_uint8[~half.covered.expand_as(half.images_uint8)].any()
    assert np.asarray(Image.open(partial / "half" / "given" / "4.png"))[..., 3].max() == 0


@pytest.mark.parametrize("size", [None, 24])
def test_overlap_compares_covered_pixels_alone(size):
    images, (K, R) = torch.from_numpy(views(1)).movedim(-1, 1), RIG.cameras()
    covered = torch.ones(8, 1, 12, 12, dtype=torch.bool)
    covered[0, :, :, 6:], covered[3] = False, False
    spoilt = torch.where(covered, images, 255 - images)
    marked = overlap_errors(spoilt, K, R, size, covered=covered)
    whole = overlap_errors(images, K, R, size)
    assert overlap_errors(images, K, R, size, covered=torch.ones_like(covered)) == whole
    assert {(2, 3), (3, 4), (0, 1)}.isdisjoint(marked.pairs)  # the right half of view 0 is what view 1 shows
    kept = [whole.pairs.index(pair) for pair in marked.pairs if 0 not in pair]
    assert len(kept) == 4
    for pair in kept:
        at = marked.pairs.index(whole.pairs[pair])
        assert marked.squared_error[at] == whole.squared_error[pair]
    assert min(marked.psnr_of_pairs()) > min(overlap_errors(spoilt, K, R, size).psnr_of_pairs()) + 10


def test_whole_views_of_a_sample():
    images, (K, R) = torch.from_numpy(views(1)).movedim(-1, 1), RIG.cameras()
    truth = [{"object": str(view)} for view in range(8)]
    sample = ScoredSample("s", images, K, R, list("abcdefgh"), truth)
    assert sample.whole_views() is sample
    covered = torch.ones(8, 1, 12, 12, dtype=torch.bool)
    covered[[0, 5], 0, 3, 3] = False
    whole = replace(sample, covered=covered).whole_views()
    assert (whole.prompts, [one["object"] for one in whole.truth]) == (list("bcdegh"), list("123467"))
    assert torch.equal(whole.images_uint8, images[[1, 2, 3, 4, 6, 7]])
    assert torch.equal(whole.R, R[[1, 2, 3, 4, 6, 7]])
    assert replace(sample, covered=torch.zeros_like(covered)).whole_views() is None
