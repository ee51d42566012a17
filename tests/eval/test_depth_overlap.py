"""Overlap PSNR of views with depth: a naive per-pixel loop, exact worlds, occlusion, and what the runner says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.eval.overlap import depth_overlap_errors, depth_overlap_psnr
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.sources import source_from_config
from mvdiff.eval.view_pairs import depth_view_pairs
from mvdiff.geometry import DEFAULT_DEPTH_TOLERANCE, DepthTolerance, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.samples import SampleRecord, camera_record, sample_folder, write_sample
from tests.data.scenes import write_scannet
from tests.geometry.depth_views import EYE, HEIGHT, K90, ORIGIN, WIDTH, uneven_views

MEAN, POOLED = "overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"
AS_IS = EvaluationSettings(num_resamples=100)


def noise(num_views, height=HEIGHT, width=WIDTH, seed=0):
    return torch.rand(num_views, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def walk():
    """Six frames of a toy walk at 48x64, 12 degrees apart: images uint8, depths, K, R, t."""
    scene, poses = make_walk(0, 1), walk_poses(0, 1, 60)[:12:2]
    K = intrinsics_from_fov(65.0, 48, 64)
    views = [render_view(scene, K, R, t, 48, 64, supersampling=2) for R, t in poses]
    images = torch.from_numpy(np.stack([np.round(view.colour * 255) for view in views])).permute(0, 3, 1, 2)
    R, t = (torch.from_numpy(np.stack(values)).float() for values in zip(*poses, strict=True))
    depths = torch.from_numpy(np.stack([view.distance for view in views])).float()
    return images.to(torch.uint8), depths, K.expand(6, 3, 3), R, t


def naive_pair(target, source, max_error):
    """Per-pixel loop from the definition: a target pixel's point, projected into the source, four-tap bilinear."""
    (image, depth, K, R, t), (other, other_depth, K_s, R_s, t_s) = (
        [tensor.double().numpy() for tensor in view] for view in (target, source)
    )
    image, other = (image + 1) / 2, (other + 1) / 2
    height, width = depth.shape
    total, count = 0.0, 0
    for y, x in np.ndindex(height, width):
        if depth[y, x] <= 0:
            continue
        point = R @ (np.linalg.inv(K) @ [x, y, 1] * depth[y, x]) + t
        u, v, z = K_s @ R_s.T @ (point - t_s)
        if z <= 0:
            continue
        u, v = u / z, v / z
        if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
            continue
        there = other_depth[round(v), round(u)]
        if there <= 0 or abs(there - z) > max_error:
            continue
        u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
        a, b = u - u0, v - v0
        for c in range(3):
            top = other[c, v0, u0] * (1 - a) + other[c, v0, u0 + 1] * a
            bottom = other[c, v0 + 1, u0] * (1 - a) + other[c, v0 + 1, u0 + 1] * a
            total += (top * (1 - b) + bottom * b - image[c, y, x]) ** 2
            count += 1
    return total, count


@pytest.mark.parametrize("max_error", [0.5, 0.1])
def test_matches_naive_loop(max_error):
    K, R, t, depths = uneven_views()
    images = noise(4)
    errors = depth_overlap_errors(images, depths, K, R, t, tolerance=DepthTolerance(max_error, 0))
    views = list(zip(images, depths, K, R, t, strict=True))
    assert errors.pairs == [(0, 1), (1, 2), (2, 3)]
    for (target, source), error, count in zip(errors.pairs, errors.squared_error, errors.num_values, strict=True):
        expected, expected_count = naive_pair(views[target], views[source], max_error)
        assert count == expected_count
        assert error == pytest.approx(expected, rel=1e-5)


def test_golden_a_move_to_the_right_compares_what_moved_left():
    # f = 10, depth 2, 1 m to the right: view 1 is view 0 moved left by 5 pixels. Then 15 of 20 columns are compared
    # and agree exactly; moved the other way they would not.
    K, R, depths = K90.expand(2, 3, 3), EYE.expand(2, 3, 3), torch.full((2, HEIGHT, WIDTH), 2.0)
    t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    world = noise(1, HEIGHT, WIDTH + 5)[0]
    images = torch.stack([world[..., :WIDTH], world[..., 5:]])
    errors = depth_overlap_errors(images, depths, K, R, t)
    assert (errors.pairs, errors.num_values) == ([(0, 1)], [3 * HEIGHT * 15])
    assert errors.psnr_of_pairs()[0] > 90
    assert depth_overlap_psnr(images, depths, K, R, -t)[MEAN] < 15


def test_golden_two_constant_views_and_the_two_averages():
    # Pair (0, 1) differs by 0.1 in [0, 1]: 20 dB. Pair (1, 2) by 0.01: 40 dB. All pixels count: the pooled squared
    # error is (0.01 + 0.0001) / 2.
    K, R, t, depths = K90.expand(3, 3, 3), EYE.expand(3, 3, 3), torch.zeros(3, 3), torch.full((3, HEIGHT, WIDTH), 2.0)
    images = torch.tensor([0.1, 0.3, 0.32]).view(3, 1, 1, 1).expand(3, 3, HEIGHT, WIDTH)
    psnr = depth_overlap_psnr(images, depths, K, R, t)
    assert psnr[MEAN] == pytest.approx(30, abs=1e-3)
    assert psnr[POOLED] == pytest.approx(-10 * math.log10(0.00505), abs=1e-3)
    assert psnr["num_pairs"] == 2


def test_what_is_occluded_is_not_compared():
    # View 1 has a board 1 m before the wall in its left half: it is red, the wall white. Only 0.4 m before it, the
    # paper's 0.5 m let it pass; the stricter tolerance does not.
    K, R, t = K90.expand(2, 3, 3), EYE.expand(2, 3, 3), torch.zeros(2, 3)
    images = torch.ones(2, 3, HEIGHT, WIDTH)
    images[1, 1:, :, :10] = -1
    for gap, values in ((1.0, 10), (0.4, 20)):
        depths = torch.full((2, HEIGHT, WIDTH), 4.0)
        depths[1, :, :10] -= gap
        errors = depth_overlap_errors(images, depths, K, R, t)
        assert errors.num_values == [3 * HEIGHT * values]
        assert (errors.squared_error[0] > 1) == (gap == 0.4)
        strict = depth_overlap_errors(images, depths, K, R, t, tolerance=DEFAULT_DEPTH_TOLERANCE)
        assert strict.num_values == [3 * HEIGHT * 10]
        assert strict.squared_error[0] < 1e-6


def test_true_frames_agree_and_wrong_poses_do_not(walk):
    images, depths, K, R, t = walk
    truth = depth_overlap_psnr(images, depths, K, R, t)
    strict = depth_overlap_psnr(images, depths, K, R, t, tolerance=DEFAULT_DEPTH_TOLERANCE)
    assert truth[MEAN] > 26
    assert strict[MEAN] > truth[MEAN] + 0.2
    for wrong in ((R.mT, t), (R, -t), (R, t.roll(1, dims=1)), (EYE.expand_as(R), t)):
        assert depth_overlap_psnr(images, depths, K, *wrong)[MEAN] < truth[MEAN] - 8
    foreign = images.roll(3, dims=0)
    assert depth_overlap_psnr(foreign, depths, K, R, t)[MEAN] < truth[MEAN] - 8


def test_uint8_and_float_batch_and_rigid_motion_agree(walk):
    images, depths, K, R, t = walk
    one = depth_overlap_psnr(images, depths, K, R, t)
    as_float = depth_overlap_psnr(images.float() / 127.5 - 1, depths, K, R, t)
    assert as_float[POOLED] == pytest.approx(one[POOLED], abs=1e-4)
    turn = rotation_from_yaw_pitch(torch.tensor(70.0).double(), torch.tensor(20.0).double())
    moved = depth_overlap_psnr(images, depths, K, turn @ R.double(), t.double() @ turn.mT + 3)
    assert moved[POOLED] == pytest.approx(one[POOLED], abs=0.05)  # float32 poses move points by 1e-5 pixels
    batch = [torch.stack([values, values.flip(0)]) for values in (images, depths, K, R, t)]
    both = depth_overlap_psnr(*batch)
    backwards = depth_overlap_psnr(*(values.flip(0) for values in (images, depths, K, R, t)))
    assert both["num_pairs"] == one["num_pairs"] + backwards["num_pairs"] == 10
    assert both[MEAN] == pytest.approx((one[MEAN] + backwards[MEAN]) / 2)


def test_padding_views_never_count(walk):
    images, depths, K, R, t = (values.clone() for values in walk)
    expected = depth_overlap_psnr(*(values[:4] for values in walk))
    images[4:], depths[4:], K[4:], R[4:], t[4:] = 0, 0, EYE, EYE, 0
    valid = torch.tensor([True] * 4 + [False] * 2)
    assert depth_overlap_psnr(images, depths, K, R, t, view_valid=valid) == expected
    batched = depth_overlap_psnr(*(v[None] for v in (images, depths, K, R, t)), view_valid=valid[None])
    assert batched == expected
    assert depth_overlap_errors(images, depths, K, R, t).pairs == [(0, 1), (1, 2), (2, 3)]  # no depth: nothing shared
    assert depth_overlap_psnr(images[4:], depths[4:], K[4:], R[4:], t[4:])["num_pairs"] == 0


def test_pairs_by_rule_and_by_hand(walk):
    _, depths, K, R, t = walk
    overlapping = depth_view_pairs(K, R, t, depths, "overlapping")
    assert {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)} < set(overlapping)
    assert all(i < j for i, j in overlapping)
    assert depth_view_pairs(K, R, t, depths, [(3, 0)]) == [(3, 0)]
    with pytest.raises(ValueError, match=r"pairs must name two different views .*got \(0, 6\)"):
        depth_view_pairs(K, R, t, depths, [(0, 6)])
    with pytest.raises(ValueError, match="overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got 'x'"):
        depth_view_pairs(K, R, t, depths, "x")


def test_wrong_input_is_refused():
    K, R, t, depths = K90[None], EYE[None], ORIGIN[None], torch.ones(1, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"depths must have shape \[V, H, W\]"):
        depth_overlap_errors(noise(1), depths[:, :5], K, R, t)
    with pytest.raises(ValueError, match=r"overlap_depth_error must be at least 0 metres; got -0\.5"):
        depth_overlap_errors(noise(1), depths, K, R, t, tolerance=DepthTolerance(-0.5, 0))


def write(root: Path, walk, num=2, spoil=0.0, with_t=True, with_depth=True, prefix="s"):
    """Write the walk as sample folders ``s0``, ... with noise of the given strength."""
    images, depths, K, R, t = walk
    for index in range(num):
        spoiled = images + spoil * 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(index))
        cameras = camera_record(K, R, t, *images.shape[-2:])
        if not with_t:
            cameras["views"] = [{name: view[name] for name in ("K", "R")} for view in cameras["views"]]
        record = SampleRecord(f"{prefix}{index}", ["a room"] * len(images), cameras=cameras)
        views = spoiled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        folder = sample_folder(root, record.sample_id)
        write_sample(folder, record, views, depths=depths if with_depth else None)
    return root


def test_runner_scores_folders_with_depth(tmp_path, walk):
    write(tmp_path / "ours", walk, spoil=0.1)
    write(tmp_path / "truth", walk)
    results = evaluate(tmp_path / "ours", tmp_path / "truth", ["overlap_psnr"], AS_IS)["metrics"]
    _, depths, K, R, t = walk
    depths = (depths * 1000).round() / 1000  # as the files hold them
    samples = []
    for index in range(2):
        spoiled = walk[0] + 25.5 * torch.randn(walk[0].shape, generator=torch.Generator().manual_seed(index))
        samples.append(spoiled.round().clamp(0, 255).to(torch.uint8))
    two = [values.expand(2, *values.shape) for values in (depths, K, R, t)]
    ours, truth = depth_overlap_psnr(torch.stack(samples), *two), depth_overlap_psnr(walk[0], depths, K, R, t)
    strict = depth_overlap_psnr(walk[0], depths, K, R, t, tolerance=DEFAULT_DEPTH_TOLERANCE)
    ours_strict = depth_overlap_psnr(torch.stack(samples), *two, tolerance=DEFAULT_DEPTH_TOLERANCE)
    assert ours_strict[MEAN] > ours[MEAN] + 0.01
    for name in (MEAN, POOLED):
        assert results[name]["value"] == pytest.approx(ours[name])
        assert results[name]["reference"] == pytest.approx(truth[name])
        assert results[name]["ratio_to_reference"] == pytest.approx(ours[name] / truth[name])
        assert results[name]["unoccluded"]["value"] == pytest.approx(ours_strict[name])
        assert results[name]["unoccluded"]["reference"] == pytest.approx(strict[name])
        assert (results[name]["model"], results[name]["num_pairs"]) == ("depth and pose", 10)
        assert (
            "consecutive pairs; the images' own size; pixels whose depth is off by at most 0.5 m"
            in (results[name]["variant"])
        )
    pairs = [depth_overlap_errors(images, depths, K, R, t).psnr_of_pairs() for images in (*samples, walk[0])]
    ratios = [a / b for own in pairs[:2] for a, b in zip(own, pairs[2], strict=True)]
    assert results[MEAN]["mean_of_pair_ratios"] == pytest.approx(np.mean(ratios))
    assert results[MEAN]["mean_of_pair_ratios"] != pytest.approx(results[MEAN]["ratio_to_reference"], abs=1e-4)
    assert set(results[MEAN]["per_sample"]) == {"s0", "s1"}
    json.dumps(results)


def test_runner_follows_the_settings(tmp_path, walk):
    write(tmp_path, walk, num=1)
    depths = (walk[1] * 1000).round() / 1000
    settings = EvaluationSettings(num_resamples=100, overlap_depth_error=0.05, overlap_pairs=[(0, 2), (5, 3)])
    found = evaluate(tmp_path, metrics=["overlap_psnr"], settings=settings)["metrics"][POOLED]
    expected = depth_overlap_psnr(walk[0], depths, *walk[2:], pairs=[(0, 2), (5, 3)], tolerance=DepthTolerance(0.05, 0))
    assert found["value"] == pytest.approx(expected[POOLED])
    assert "given pairs" in found["variant"]
    assert "0.05 m" in found["variant"]
    assert "reference" not in found


def test_views_with_poses_and_no_depth_are_not_compared_by_homography(tmp_path, walk):
    write(tmp_path, walk, num=1, with_depth=False)
    found = evaluate(tmp_path, metrics=["overlap_psnr", "sharpness"], settings=AS_IS)["metrics"]
    assert "need depths for an overlap PSNR" in found[MEAN]["missing"]
    assert "value" in found["sharpness_gradient_energy"]


def test_depths_without_poses_share_a_centre(tmp_path, walk):
    images, depths, K, R, t = walk
    write(tmp_path, walk, num=1, with_t=False)
    found = evaluate(tmp_path, metrics=["overlap_psnr"], settings=AS_IS)["metrics"][POOLED]["value"]
    depths = (depths * 1000).round() / 1000
    assert found == pytest.approx(depth_overlap_psnr(images, depths, K, R, torch.zeros_like(t))[POOLED])


def test_one_number_is_not_made_of_both_kinds(tmp_path, walk):
    write(tmp_path / "all", walk, num=1)
    write(tmp_path / "all" / "more", walk, num=1, with_t=False, with_depth=False, prefix="more")
    found = evaluate(tmp_path / "all", metrics=["overlap_psnr"], settings=AS_IS)["metrics"][MEAN]
    assert "must all have depths or all have none" in found["missing"]
    reference = tmp_path / "all" / "more"
    write(tmp_path / "ours", walk, num=1)
    found = evaluate(tmp_path / "ours", reference, ["overlap_psnr"], AS_IS)["metrics"][MEAN]
    assert "must all have depths or all have none" in found["lacks"][0]
    assert "ratio_to_reference" not in found


def test_a_runs_scannet_data_are_a_reference(tmp_path):
    root = write_scannet(tmp_path / "scannet", num_train=1, num_test=1)
    config = tmp_path / "run.yaml"
    config.write_text(
        "data:\n  class_path: mvdiff.data.scannet_datamodule.ScanNetDataModule\n  init_args:\n"
        f"    root: {root}\n    height: 24\n    width: 32\n    num_views: 5\n"
    )
    source = source_from_config([config])
    samples = list(source)
    assert len(samples) >= 2
    sample = samples[0]
    assert (sample.depths.shape, sample.t.shape) == ((5, 24, 32), (5, 3))
    assert sample.prompts[:2] == ["frame 0", "frame 2"]  # every second frame is a key frame
    for sample in samples:
        folder, (height, width) = tmp_path / "ours" / sample.sample_id, sample.images_uint8.shape[-2:]
        record = SampleRecord(
            sample.sample_id, sample.prompts, cameras=camera_record(sample.K, sample.R, sample.t, height, width)
        )
        write_sample(folder, record, sample.images_uint8.permute(0, 2, 3, 1), depths=sample.depths)
    results = evaluate(tmp_path / "ours", source, ["overlap_psnr"], AS_IS)
    assert results["generated"]["geometry"] == results["reference"]["geometry"]  # of a folder and of the data
    found = results["metrics"]
    for name in (MEAN, POOLED):
        assert found[name]["num_pairs"] == 4 * len(samples)
        assert found[name]["ratio_to_reference"] == pytest.approx(1, abs=1e-4)
    assert found[MEAN]["mean_of_pair_ratios"] == pytest.approx(1, abs=1e-4)
