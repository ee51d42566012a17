"""Border ratio: planted steps on the ring and in views with depth, a naive loop, and what has none.

Its values on the toy world, and those of an independent implementation on other rooms, are in notes/tables.md.
"""

import math

import numpy as np
import pytest
import torch

from mvdiff.eval.metrics.border_ratio import BorderRatio, same_surface
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.view_pairs import view_pairs
from mvdiff.geometry.cameras import Rig, RingRig
from tests.eval.worlds import views, write_samples
from tests.geometry.depth_views import EYE, HEIGHT, K90, WIDTH

FLAT_RING = RingRig(
    num_views=8, fov_deg=90.0, height=2, width=32
)  # so low that a neighbour ends in the middle column alone


def ramp(width, height, steps):
    """A row that rises by 2 levels per column, and by `steps[i]` more from column i to i + 1."""
    rises = torch.full((width - 1,), 2)
    for column, more in steps.items():
        rises[column] += more
    row = torch.cat([torch.zeros(1, dtype=torch.long), rises.cumsum(0)]).to(torch.uint8)
    return row.expand(3, height, width)


def score(images, rig, **options):
    K, R = rig.cameras(**options)
    return BorderRatio().measure(ScoredSample("s", images, K, R, [""] * len(images))).get("border_ratio")


@pytest.mark.parametrize(("more", "ratio"), [(0, 1), (-2, 0), (18, 10), (38, 20)])
def test_golden_step_in_the_middle_column_of_the_ring(more, ratio):
    images = ramp(32, 2, {15: more}).expand(8, 3, 2, 32)
    assert score(images, FLAT_RING) == pytest.approx(ratio)
    assert score(images, FLAT_RING, yaw_offset_deg=77.0) == pytest.approx(ratio)


def test_golden_only_the_columns_named_count():
    # Beside the border: neither border nor around. 2 to 8 columns away: one of 14 steps around. Farther: nothing.
    for column, ratio in ((14, 1), (16, 1), (13, 2 / (2 + 18 / 14)), (23, 2 / (2 + 18 / 14)), (24, 1), (6, 1)):
        images = ramp(32, 2, {column: 18}).expand(8, 3, 2, 32)
        assert score(images, FLAT_RING) == pytest.approx(ratio)


def naive(images, K, R, pairs):
    """Per-pixel loop from the definition."""
    unit, (height, width) = images.double().numpy() / 255, images.shape[-2:]
    border, around = [], []
    for target, source in [both for pair in pairs for both in (pair, pair[::-1])]:
        for y in range(height):
            inside = []
            for x in range(width):
                p = K[source] @ R[source].T @ R[target] @ np.linalg.inv(K[target]) @ np.array([x, y, 1.0])
                u, v = p[:2] / p[2]
                inside.append(p[2] > 0 and -0.5 <= u <= width - 0.5 and -0.5 <= v <= height - 0.5)
            steps = np.abs(np.diff(unit[target, :, y], axis=-1)).mean(axis=0)
            for x in range(width - 1):
                if inside[x] != inside[x + 1]:
                    border.append(steps[x])
                    around += [steps[i] for i in range(width - 1) if 2 <= abs(i - x) <= 8]
    return np.mean(border) / np.mean(around)


@pytest.mark.parametrize(
    "rig",
    [
        RingRig(num_views=8, fov_deg=90.0, height=16, width=16).resized(17, 17),
        Rig([(0, 0, 80), (30, 10, 70), (50, -15, 90)], height=18, width=25),
    ],
    ids=["ring", "non-square"],
)
def test_matches_naive_loop(rig):
    shape, draw = (rig.num_views, 3, rig.height, rig.width), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    K, R = rig.cameras()
    expected = naive(images, K.double().numpy(), R.double().numpy(), view_pairs(K, R, rig.height, rig.width))
    assert score(images, rig) == pytest.approx(expected, rel=1e-6)


def test_contrast_and_range_leave_it_alone_and_seams_raise_it():
    rig = RingRig(num_views=8, fov_deg=90.0, height=32, width=32)
    whole, other = (torch.from_numpy(views(seed, rig)).permute(0, 3, 1, 2) for seed in (0, 4))
    pasted = torch.cat([other[..., :16], whole[..., 16:]], dim=-1)  # as if the left half came from a neighbour
    unit = pasted.float() / 127.5 - 1
    assert [score(images, rig) for images in (unit, 0.1 * unit)] == pytest.approx([score(pasted, rig)] * 2, rel=1e-4)
    assert 0.5 < score(whole, rig) < 1.5
    assert score(pasted, rig) > 3 * score(whole, rig)


def plane(steps, depths):
    """Two views 1 m apart of a plane 2 m away: of 20 columns, 0 to 4 of the first and 15 to 19 of the second end."""
    cameras = K90.expand(2, 3, 3), EYE.expand(2, 3, 3), ["", ""]
    images = torch.stack([ramp(WIDTH, HEIGHT, one) for one in steps])
    t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    return BorderRatio().measure(ScoredSample("s", images, *cameras, t=t, depths=depths)).get("border_ratio")


def test_golden_step_where_a_neighbour_ends_by_depth_and_pose():
    depths = torch.full((2, HEIGHT, WIDTH), 2.0)
    assert plane([{4: 18}, {14: 18}], depths) == pytest.approx(10)
    assert plane([{14: 18}, {4: 18}], depths) == pytest.approx(1)  # more than 8 columns away
    assert plane([{4: 18}, {}], depths) == pytest.approx(5.5)  # one border of two


def test_edges_in_depth_and_unknown_depths_do_not_count():
    depths = torch.full((2, HEIGHT, WIDTH), 2.0)
    depths[1, :, 10:] = 0.0  # unknown: the second view has no border left
    assert plane([{4: 18}, {14: 18}], depths) == pytest.approx(10)
    assert plane([{4: 18}, {12: 40}], depths) == pytest.approx(10)
    depths[0, :, :5] = 2.2  # an object ends where the neighbour does
    assert plane([{4: 18}, {14: 18}], depths) is None
    row = torch.tensor([2.0, 2.1, 2.3, 0.0, 2.0, math.nan])
    assert same_surface(row.view(1, 1, 6)).tolist() == [[[True, False, False, False, False]]]


def test_what_has_no_border_or_no_contrast_is_missing(tmp_path):
    settings = EvaluationSettings(num_resamples=100)
    apart = Rig([(0, 0, 40), (180, 0, 40)], height=12, width=12)
    entry = evaluate(write_samples(tmp_path, num=2, rig=apart), None, ["border_ratio"], settings)["metrics"]
    assert entry["border_ratio"]["missing"] == "no sample has a view in which the field of view of a neighbour ends."
    assert score(torch.full((8, 3, 2, 32), 90, dtype=torch.uint8), FLAT_RING) is None
    K, R = FLAT_RING.cameras()
    moved = ScoredSample("s", ramp(32, 2, {}).expand(8, 3, 2, 32), K, R, [""] * 8, t=torch.arange(24.0).view(8, 3))
    with pytest.raises(ValueError, match="views with different centres need depths"):
        BorderRatio().measure(moved)


def test_is_a_mean_over_samples_beside_the_reference(tmp_path):
    generated, reference = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b", num=3)
    results = evaluate(generated, reference, ["border_ratio"], EvaluationSettings(num_resamples=100))
    entry = results["metrics"]["border_ratio"]
    assert entry["value"] == pytest.approx(np.mean(list(entry["per_sample"].values())))
    assert entry["ratio_to_reference"] == pytest.approx(entry["value"] / entry["reference"])
    assert "2 to 8 columns away; the images' own size" in entry["variant"]
