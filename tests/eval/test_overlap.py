"""Overlap PSNR against a naive per-pixel loop, and its properties on a world whose views agree exactly."""

import math

import numpy as np
import pytest
import torch

from mvdiff.eval import overlap
from mvdiff.eval.overlap import combine, overlap_errors, overlap_psnr
from mvdiff.eval.view_pairs import view_pairs
from mvdiff.geometry.cameras import Rig, RingAndPolesRig, RingRig


def noise(num_views, height, width, seed=0):
    return torch.rand(num_views, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth_world(K, R, height, width):
    """Colour as a smooth function of direction: every view of it agrees wherever views overlap."""
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    rays = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1)
    directions = torch.einsum("vij,vjk,hwk->vhwi", R.double(), torch.linalg.inv(K.double()), rays)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return torch.sin(3 * directions).permute(0, 3, 1, 2).float()


def naive_pair(target, source, K_t, R_t, K_s, R_s):
    """Per-pixel loop from the definition: ray of a target pixel, projected into the source, four-tap bilinear."""
    height, width = target.shape[-2:]
    target, source = (target.numpy() + 1) / 2, (source.numpy() + 1) / 2
    total, count = 0.0, 0
    for y in range(height):
        for x in range(width):
            ray = R_t @ np.linalg.inv(K_t) @ np.array([x, y, 1.0])
            p = K_s @ R_s.T @ ray
            if p[2] <= 0:
                continue
            u, v = p[0] / p[2], p[1] / p[2]
            if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
                continue
            u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
            a, b = u - u0, v - v0
            for c in range(3):
                top = source[c, v0, u0] * (1 - a) + source[c, v0, u0 + 1] * a
                bottom = source[c, v0 + 1, u0] * (1 - a) + source[c, v0 + 1, u0 + 1] * a
                total += (top * (1 - b) + bottom * b - target[c, y, x]) ** 2
                count += 1
    return total, count


@pytest.mark.parametrize(
    "rig",
    [RingRig(num_views=8, height=12, width=12), Rig([(0, 0, 80), (30, 10, 70), (50, -15, 90)], height=9, width=14)],
    ids=["ring", "non-square"],
)
@pytest.mark.parametrize("points", [overlap.NUM_POINTS, 50])  # 50: a few rows at a time
def test_matches_naive_loop(rig, points, monkeypatch):
    monkeypatch.setattr(overlap, "NUM_POINTS", points)
    overlap._shown_by_homography.cache_clear()
    K, R = rig.cameras()
    images = noise(rig.num_views, rig.height, rig.width)
    errors = overlap_errors(images, K, R, size=None, pairs="overlapping")
    assert len(errors.pairs) >= 2
    for (target, source), error, count in zip(errors.pairs, errors.squared_error, errors.num_values, strict=True):
        camera = [x.double().numpy() for x in (K[target], R[target], K[source], R[source])]
        expected, expected_count = naive_pair(images[target].double(), images[source].double(), *camera)
        assert count == expected_count
        assert error == pytest.approx(expected, rel=1e-5)


def test_golden_two_constant_views():
    # Views 0 and 1 differ by 0.2 in [-1, 1], i.e. 0.1 in [0, 1], everywhere: PSNR = -10 log10(0.01) = 20 dB exactly.
    K, R = Rig([(0, 0, 90), (45, 0, 90)], height=8, width=8).cameras()
    images = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.3)])
    out = overlap_psnr(images, K, R, size=None)
    assert out["overlap_psnr_mean_of_pairs"] == pytest.approx(20.0, abs=1e-4)
    assert out["overlap_psnr_pooled"] == pytest.approx(20.0, abs=1e-4)
    assert out["num_pairs"] == 1


def test_golden_sides_of_the_overlap():
    # View 1 looks 45 degrees to the right of view 0, so it sees view 0's right half. Spoil view 0's left half: no
    # change. Spoil its right half: a change. (A transposed R would have it the other way round.)
    K, R = Rig([(0, 0, 90), (45, 0, 90)], height=16, width=16).cameras()
    world = smooth_world(K, R, 16, 16)
    before = overlap_errors(world, K, R, size=None).squared_error
    left, right = world.clone(), world.clone()
    left[0, ..., :7] *= -1
    right[0, ..., 9:] *= -1
    assert overlap_errors(left, K, R, size=None).squared_error == before
    assert overlap_errors(right, K, R, size=None).squared_error[0] > 100 * before[0]


def test_the_two_averages_differ_as_defined():
    K, R = RingRig(num_views=8, height=10, width=10).cameras()
    images = noise(8, 10, 10)
    images[:4] *= 0.1
    out, errors = overlap_psnr(images, K, R, size=None), overlap_errors(images, K, R, size=None)
    mse = np.array(errors.squared_error) / np.array(errors.num_values)
    assert out["overlap_psnr_mean_of_pairs"] == pytest.approx(float(np.mean(-10 * np.log10(mse))))
    pooled = sum(errors.squared_error) / sum(errors.num_values)
    assert out["overlap_psnr_pooled"] == pytest.approx(-10 * math.log10(pooled))
    assert out["overlap_psnr_mean_of_pairs"] > out["overlap_psnr_pooled"] + 0.5


def test_agreeing_views_score_high_at_any_size_and_better_with_resolution():
    scores = []
    for side in (16, 32, 64):
        K, R = RingRig(num_views=8, height=side, width=side).cameras()
        scores.append(overlap_psnr(smooth_world(K, R, side, side), K, R, size=None)["overlap_psnr_mean_of_pairs"])
    assert scores[0] > 30
    assert scores[0] < scores[1] < scores[2]
    K, R = RingRig(num_views=8, height=32, width=32).cameras()
    resized = overlap_psnr(smooth_world(K, R, 32, 32), K, R, size=128)["overlap_psnr_mean_of_pairs"]
    assert resized > 54  # a half-pixel slip of the resized K makes it 46 dB


def test_turning_and_renumbering_changes_nothing():
    rig = RingRig(num_views=8, height=12, width=12)
    images = noise(8, 12, 12)
    base = overlap_psnr(images, *rig.cameras(), size=None)
    turned = overlap_psnr(images, *rig.cameras(yaw_offset_deg=123.0), size=None)
    order = torch.tensor([3, 4, 5, 6, 7, 0, 1, 2])
    K, R = rig.cameras()
    rolled = overlap_psnr(images[order], K[order], R[order], size=None)
    for other in (turned, rolled):
        assert other["overlap_psnr_pooled"] == pytest.approx(base["overlap_psnr_pooled"], abs=1e-3)
        assert other["overlap_psnr_mean_of_pairs"] == pytest.approx(base["overlap_psnr_mean_of_pairs"], abs=1e-3)


def test_uint8_and_float_agree():
    K, R = RingRig(num_views=8, height=12, width=12).cameras()
    pixels = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a = overlap_psnr(pixels, K, R, size=20)
    b = overlap_psnr(pixels.float() / 127.5 - 1, K, R, size=20)
    assert a == b


def test_split_batch_equals_whole():
    K, R = RingRig(num_views=8, height=8, width=8).cameras()
    images = torch.stack([noise(8, 8, 8, seed) for seed in range(3)])
    whole = overlap_psnr(images, K.expand(3, -1, -1, -1), R.expand(3, -1, -1, -1), size=None)
    errors = [overlap_errors(sample, K, R, size=None) for sample in images]
    assert combine(errors) == whole
    assert np.mean([sample.mean_psnr() for sample in errors]) == pytest.approx(whole["overlap_psnr_mean_of_pairs"])


def test_padding_views_never_count():
    K, R = RingRig(num_views=8, height=8, width=8).cameras()
    images = noise(8, 8, 8)
    valid = torch.tensor([True] * 5 + [False] * 3)
    spoiled = images.clone()
    spoiled[5:] = 1.0
    a = overlap_errors(images, K, R, size=None, view_valid=valid)
    assert a.pairs == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert a == overlap_errors(spoiled, K, R, size=None, view_valid=valid)


def test_pairs_of_other_rigs():
    K, R = RingAndPolesRig(num_views=8, height=8, width=8).cameras()
    assert view_pairs(K, R, 8, 8) == [(i, (i + 1) % 8) for i in range(8)]
    assert len(view_pairs(K, R, 8, 8, "overlapping")) > 8
    K, R = RingRig(num_views=1, height=8, width=8).cameras()
    assert view_pairs(K, R, 8, 8) == []
    out = overlap_psnr(noise(1, 8, 8), K, R)
    assert math.isnan(out["overlap_psnr_pooled"])
    assert out["num_pairs"] == 0


def test_pair_without_overlap_is_left_out():
    K, R = Rig([(0, 0, 40), (180, 0, 40)], height=8, width=8).cameras()
    assert overlap_errors(noise(2, 8, 8), K, R, size=None).pairs == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pairs": "all"}, "overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got 'all'"),
        ({"pairs": [(0, 9)]}, r"pairs must name two different views .*got \(0, 9\)"),
        ({"size": 0}, "overlap_size must be at least 1 pixel"),
    ],
)
def test_wrong_settings_are_refused(kwargs, message):
    K, R = RingRig(num_views=8, height=8, width=8).cameras()
    with pytest.raises(ValueError, match=message):
        overlap_psnr(noise(8, 8, 8), K, R, **kwargs)


def test_wrong_images_are_refused():
    K, R = RingRig(num_views=8, height=8, width=8).cameras()
    with pytest.raises(ValueError, match=r"images must be finite and in \[-1, 1\].*Pass uint8"):
        overlap_psnr(noise(8, 8, 8) * 255, K, R)
    with pytest.raises(ValueError, match="images must be uint8 or float"):
        overlap_psnr(noise(8, 8, 8).long(), K, R)
    with pytest.raises(ValueError, match="images must be uint8 or float"):  # also where no pair is compared
        overlap_psnr(noise(8, 8, 8).long(), K, R, view_valid=torch.zeros(8, dtype=torch.bool))
    with pytest.raises(ValueError, match="images"):
        overlap_psnr(noise(7, 8, 8), K, R)
