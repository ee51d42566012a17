import pytest
import torch

from mvdiff.geometry import (
    DepthTolerance,
    depth_correspondence,
    overlap_matrix,
    overlap_neighbours,
    rotation_from_yaw_pitch,
)
from tests.geometry.depth_views import EYE, HEIGHT, K90, ORIGIN, WIDTH, uneven_views


def test_overlap_matrix_is_the_share_of_visible_pixels():
    K, R, t, depths = uneven_views()
    for tolerance in (None, DepthTolerance(0.1, 0.05)):
        overlap = overlap_matrix(K, R, t, depths, stride=1, tolerance=tolerance)
        assert (overlap.shape, overlap.dtype) == ((4, 4), torch.float64)
        for i in range(4):
            for j in range(4):
                view = depths[i], K[i], R[i], t[i], depths[j], K[j], R[j], t[j]
                assert overlap[i, j] == depth_correspondence(*view, tolerance)[1].double().mean()
        torch.testing.assert_close(overlap.diagonal(), (depths > 0).double().mean(dim=(1, 2)))


def test_golden_overlap_of_a_move_to_the_right():
    # f = 10, depth 2: 1 m to the right moves all by 5 of 20 pixels; behind each other's back nothing is shared.
    K, depths = K90.expand(3, 3, 3), torch.full((3, HEIGHT, WIDTH), 2.0)
    R = torch.stack([EYE, EYE, rotation_from_yaw_pitch(180.0, 0.0)])
    t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[1.0, 0.75, 0.0], [0.75, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert overlap_matrix(K, R, t, depths, stride=1).tolist() == expected
    torch.testing.assert_close(
        overlap_matrix(K, R, t, depths, stride=4), torch.tensor(expected).double(), atol=0.1, rtol=0
    )


def test_an_empty_depth_map_overlaps_nothing():
    K, R, t, depths = uneven_views()
    depths[1] = 0
    overlap = overlap_matrix(K, R, t, depths, stride=2)
    assert overlap[1].tolist() == [0.0] * 4
    assert overlap[:, 1].tolist() == [0.0] * 4
    assert (overlap_matrix(K, R, t, depths, stride=2, tolerance=None)[[0, 2, 3], 1] > 0).all()  # no occlusion test


def test_neighbours_follow_the_two_way_rule():
    overlap = torch.eye(5, dtype=torch.float64)
    overlap[0, 2], overlap[2, 0] = 0.9, 0.31
    overlap[0, 3], overlap[3, 0] = 0.9, 0.3  # not above
    overlap[0, 4], overlap[4, 0] = 0.5, 0.5
    assert overlap_neighbours(overlap).tolist() == [[2, 4], [0, 2], [0, -1], [2, 4], [0, -1]]
    assert overlap_neighbours(overlap, min_overlap=0.29)[0].tolist() == [2, 3, 4]
    assert overlap_neighbours(overlap, max_neighbours=1).tolist() == [[4], [0], [0], [2], [0]]


def test_lonely_views_take_those_before_and_after():
    assert overlap_neighbours(torch.eye(4)).tolist() == [[1, -1], [0, 2], [1, 3], [2, -1]]
    assert overlap_neighbours(torch.eye(1)).tolist() == [[-1]]
    assert overlap_neighbours(torch.eye(2)).dtype == torch.int64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap_neighbours(torch.zeros(2, 3)), "overlap must have shape [V, V]; got [2, 3]"),
        (lambda: overlap_neighbours(torch.eye(2), max_neighbours=0), "max_neighbours must be at least 1, or None"),
        (
            lambda: overlap_matrix(K90[None], EYE[None], ORIGIN[None] / 0, torch.ones(1, 4, 5)),
            "t must be finite; got NaN or inf at index [0, 0].",
        ),
        (
            lambda: overlap_matrix(K90[None], EYE[None], ORIGIN[None], torch.ones(1, 4, 5), stride=5),
            "stride must be between 1 and 4, the image's smaller side in pixels; got 5",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)
