"""Scores of outpainting: do given pixels come back, and do the other views continue them?"""

import math

import numpy as np
import pytest
import torch

from mvdiff.eval.metrics.given import given_overlap_errors, known_psnr
from mvdiff.eval.overlap import overlap_errors
from mvdiff.eval.runner import evaluate
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import SampleRecord, read_sample, sample_folder, write_sample
from tests.eval.worlds import RIG, views

K, R = RIG.cameras()


def world(seed=0, noise=0.0):
    return torch.from_numpy(views(seed, noise=noise)).movedim(-1, 1)


def first():
    known = torch.zeros(8, 1, 12, 12)
    known[0] = 1
    return known


def test_known_psnr_matches_numpy():
    made, given = world(noise=0.1), world()
    known = (torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    where = np.broadcast_to(known.numpy() > 0, made.shape)
    mse = np.mean(((made.numpy()[where].astype(float) - given.numpy()[where].astype(float)) / 255) ** 2)
    assert known_psnr(made, given, known) == pytest.approx(-10 * np.log10(mse), abs=1e-4)
    assert known_psnr(given, given, known) == 100.0
    assert math.isnan(known_psnr(made, given, torch.zeros(8, 1, 12, 12)))


def test_what_is_not_known_is_not_read():
    made, given = (world(noise=0.1).float() / 127.5 - 1 for _ in range(2))
    made, known = made + 0.05, first()
    spoiled = torch.where(known > 0, given, float("nan"))
    assert known_psnr(made, spoiled, known) == known_psnr(made, given, known)
    errors = given_overlap_errors(made.clamp(-1, 1), spoiled, known, K, R)
    assert all(math.isfinite(error) for error in errors.squared_error)


def test_a_whole_view_matches_the_overlap_psnr_of_its_pairs():
    """View 0 given whole: the errors are those of the overlap metric with the given pixels in view 0's place."""
    made, given = world(noise=0.1), world()
    errors = given_overlap_errors(made, given, first(), K, R)
    mixed = torch.cat([given[:1], made[1:]])
    expected = overlap_errors(mixed, K, R, size=None, pairs=[(1, 0), (7, 0)])
    assert errors.pairs == expected.pairs == [(1, 0), (7, 0)]
    assert errors.num_values == expected.num_values
    assert errors.squared_error == pytest.approx(expected.squared_error, rel=1e-6)


def test_pixels_given_in_the_other_view_too_are_left_out():
    made, given, known = world(noise=0.1), world(), first()
    everywhere = torch.ones(8, 1, 12, 12)
    assert given_overlap_errors(made, given, everywhere, K, R).pairs == []
    known[1, :, :6] = 1
    fewer = given_overlap_errors(made, given, known, K, R)
    alone = given_overlap_errors(made, given, first(), K, R)
    assert fewer.num_values[fewer.pairs.index((1, 0))] < alone.num_values[0]


def test_views_that_continue_score_higher():
    known = first()
    good, bad = world(noise=0.02), torch.cat([world()[:1], world(seed=3)[1:]])
    scores = [given_overlap_errors(made, world(), known, K, R).mean_psnr() for made in (good, bad)]
    assert scores[0] > scores[1] + 5


def write(root, name, made, known, **settings):
    record = SampleRecord(name, ["a sofa"] * 8, rig=RIG.to_dict(), settings=settings)
    alpha = 255 * known.to(torch.uint8)
    given = torch.cat([world() * (known > 0), alpha], dim=1).movedim(1, -1)
    write_sample(sample_folder(root, name), record, made.movedim(1, -1), given=given)


def test_evaluate_scores_folders(tmp_path):
    for index in range(3):
        write(tmp_path / "a", f"s{index}", world(noise=0.05 * (index + 1)), first(), paste_back=False)
    metrics = evaluate(tmp_path / "a", None, ["given"])["metrics"]
    samples = [read_sample(tmp_path / "a" / f"s{index}") for index in range(3)]
    known = [known_psnr(sample.images_uint8(), *sample.given()) for sample in samples]
    overlap = [given_overlap_errors(sample.images_uint8(), *sample.given(), K, R).mean_psnr() for sample in samples]
    assert metrics["known_psnr"]["value"] == pytest.approx(np.mean(known))
    assert metrics["given_overlap_psnr"]["value"] == pytest.approx(np.mean(overlap))
    assert list(metrics["known_psnr"]["per_sample"]) == ["s0", "s1", "s2"]


def test_what_cannot_be_scored_is_missing_with_its_reason(tmp_path):
    write(tmp_path / "pasted", "s", world(), first(), paste_back=True)
    metrics = evaluate(tmp_path / "pasted", None, ["given"])["metrics"]
    assert "pasted back into 1 of 1 samples. Generate them with --no_paste_back" in metrics["known_psnr"]["missing"]
    assert "value" in metrics["given_overlap_psnr"]
    write(tmp_path / "whole", "s", world(), torch.ones(8, 1, 12, 12), paste_back=False)
    metrics = evaluate(tmp_path / "whole", None, ["given"])["metrics"]
    assert "no generated pixels overlap" in metrics["given_overlap_psnr"]["missing"]
    write(tmp_path / "whole", "nothing", world(), torch.zeros(8, 1, 12, 12), paste_back=False)
    assert evaluate(tmp_path / "whole", None, ["given"])["metrics"]["known_psnr"] == metrics["known_psnr"]
    record = SampleRecord("s", ["a sofa"] * 8, rig=RIG.to_dict())
    write_sample(sample_folder(tmp_path / "plain", "s"), record, world().movedim(1, -1))
    metrics = evaluate(tmp_path / "plain", None, ["given"])["metrics"]
    assert "no sample has given pixels" in metrics["known_psnr"]["missing"]


def test_rigs_of_any_size_and_dtype():
    rig = RingRig(num_views=4, fov_deg=120.0, height=6, width=10)
    known = torch.zeros(4, 1, 6, 10)
    known[2, :, :, :5] = 1
    images = torch.zeros(4, 3, 6, 10)
    errors = given_overlap_errors(images, images, known, *rig.cameras())
    assert {source for _, source in errors.pairs} == {2}
    assert errors.mean_psnr() == 100.0
