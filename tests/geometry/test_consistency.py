import math

import numpy as np
import pytest
import torch

from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.geometry import DEFAULT_DEPTH_TOLERANCE, intrinsics_from_fov
from mvdiff.geometry.consistency import Consistency, check_consistency, compare, frame_pairs
from tests.mesh.worlds import EYE, HEIGHT, WIDTH, camera, frame, plane_frame

WALL = (0, 0, 1)


@pytest.fixture(scope="module")
def walk():
    """20 frames of 48 x 64 around a toy room, 18 degrees apart."""
    scene = make_walk(0, 3)
    K = intrinsics_from_fov(65.0, 48, 64)
    frames = []
    for R, t in walk_poses(0, 3, 20):
        hits = render_view(scene, K, torch.from_numpy(R), t, 48, 64)
        frames.append(frame(hits.distance, K, torch.from_numpy(R), torch.from_numpy(t), np.round(hits.colour * 255)))
    return frames


def test_frames_of_one_room_agree(walk):
    found = check_consistency(walk)
    assert found.agreement > 0.93
    assert found.colour > 0.9 > found.colour_unmoved
    assert found.num_pairs >= 15
    assert found.problem(real_colours=True) is None


WRONG = {
    "rotations transposed": lambda one, walk, i: one._replace(R=one.R.mT),
    "camera-from-world": lambda one, walk, i: one._replace(R=one.R.mT, t=-one.R.mT @ one.t),
    "OpenGL's axes": lambda one, walk, i: one._replace(R=one.R @ torch.diag(torch.tensor([1.0, -1, -1]).double())),
    "poses of later frames": lambda one, walk, i: one._replace(R=walk[i - 2].R, t=walk[i - 2].t),
    "centres in kilometres": lambda one, walk, i: one._replace(t=one.t / 1000),
    "depths twice as large": lambda one, walk, i: one._replace(depth=one.depth * 2),
    "focal length of other images": lambda one, walk, i: one._replace(K=one.K * torch.tensor([[2.0], [2.0], [1.0]])),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_cameras_are_found(walk, how):
    wrong = [WRONG[how](one, walk, i) for i, one in enumerate(walk)]
    problem = check_consistency(wrong).problem(real_colours=False)
    assert problem is not None
    assert "contradict" in problem or "do not overlap" in problem


def test_images_of_another_camera_are_found(walk):
    flipped = check_consistency([one._replace(image=one.image.flip(1)) for one in walk])
    assert "colours" in flipped.problem(real_colours=True)
    assert flipped.problem(real_colours=False) is None


def test_golden_a_step_to_the_right():
    # f = 20, wall 2 m away, 0.5 m to the right: everything moves 5 pixels to the left, 5 of 40 columns leave
    steps = np.arange(WIDTH) * 6
    stripes = np.stack([steps] * 3, axis=-1)[None].repeat(HEIGHT, axis=0)
    source = plane_frame(WALL, 2.0, stripes)
    target = plane_frame(WALL, 2.0, np.roll(stripes, -5, axis=1), t=(0.5, 0, 0))
    counts, (colour, unmoved, *_) = compare(source, target, DEFAULT_DEPTH_TOLERANCE)
    assert counts.tolist() == [HEIGHT * (WIDTH - 5), 0, HEIGHT * (WIDTH - 5), HEIGHT * WIDTH]
    assert colour == pytest.approx(1)
    assert unmoved < 0.9


@pytest.mark.parametrize(("depth", "judged"), [(2.0, (1, 0)), (3.0, (0, 1)), (1.0, (0, 0)), (0.0, (0, 0))])
def test_golden_a_point_agrees_is_looked_through_or_hidden(depth, judged):
    source, target = plane_frame(WALL, 2.0), frame(np.full((HEIGHT, WIDTH), depth), *camera())
    counts, _ = compare(source, target, DEFAULT_DEPTH_TOLERANCE)
    assert (counts[:2] / (HEIGHT * WIDTH)).tolist() == list(judged)
    assert counts[2] == (HEIGHT * WIDTH if depth else 0)


def test_images_without_any_pattern_say_nothing_about_colours():
    found = check_consistency([plane_frame(WALL, 2.0), plane_frame(WALL, 2.0, t=(0.4, 0, 0))])
    assert found.agreement == 1
    assert math.isnan(found.colour)
    assert found.problem(real_colours=True) is None


def test_pairs_are_far_enough_apart_and_spread():
    t = torch.zeros(40, 3)
    t[:, 0] = torch.arange(40) * 0.11
    pairs = frame_pairs(EYE.expand(40, 3, 3), t, num_pairs=4)
    assert pairs[:2] == [(0, 3), (13, 16)]
    assert len(pairs) == 3  # none far enough follows the last but one
    turns = torch.stack([camera(yaw=10.0 * i)[1] for i in range(4)])
    assert frame_pairs(turns, torch.zeros(4, 3), num_pairs=9) == [(0, 2), (1, 3)]
    assert frame_pairs(EYE.expand(5, 3, 3), torch.zeros(5, 3), num_pairs=3) == [(0, 4)]
    assert frame_pairs(EYE[None], torch.zeros(1, 3), num_pairs=3) == []


def test_one_frame_is_not_judged():
    found = check_consistency([plane_frame(WALL, 2.0)])
    assert "nothing to compare" in str(found)
    assert found.problem(real_colours=True) is None


def test_no_overlap_is_a_problem():
    found = check_consistency([plane_frame(WALL, 2.0), plane_frame((0, 0, -1), 2.0, yaw=180.0)])
    problem = found.problem(real_colours=False)
    assert "do not overlap" in problem
    assert "0.0%" in problem


@pytest.mark.parametrize("known", [0, 1])
def test_frames_without_depth_are_not_called_wrong(known):
    depth = np.zeros((HEIGHT, WIDTH))
    depth[0, :known] = 2.0
    found = check_consistency([frame(depth, *camera(t=(0.4 * i, 0, 0))) for i in range(2)])
    share = f"{known / (HEIGHT * WIDTH):.1%}"
    assert found.lacks_depth
    for text in (found.problem(False), str(found)):
        assert "depth" in text
        assert share in text
    assert not check_consistency([plane_frame(WALL, 2.0), plane_frame((0, 0, -1), 2.0, yaw=180.0)]).lacks_depth


def test_it_says_its_numbers_in_one_line():
    found = Consistency(agreement=0.51239, colour=0.9, colour_unmoved=0.25, shared=0.4, num_pairs=3)
    assert str(found) == (
        "depth agreement 0.512, colour correlation 0.900 (without poses 0.250) in 3 pairs that share 40% of their "
        "pixels"
    )
    assert "contradict each other (agreement 0.512, needed 0.8)" in found.problem(True)
