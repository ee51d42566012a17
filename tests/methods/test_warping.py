"""Frames warped by depth: painted walls with exact depth as the oracle, occluders, holes."""

import pytest
import torch

from mvdiff.geometry import intrinsics_from_fov, unproject
from mvdiff.geometry.sampling import cell_centres
from mvdiff.methods.warping import Views, close_cells, fill_holes, warp_by_depth
from tests.models.test_depth_geometry import HEIGHT, WIDTH, wall


def painted(views: Views) -> torch.Tensor:
    """A smooth colour at every point of the world, as the frames see it: [V, 3, H, W]."""
    centres = cell_centres(HEIGHT, WIDTH, 1).expand(len(views.K), -1, -1, -1)
    points = unproject(centres, views.depths, *(value[:, None, None] for value in (views.K, views.R, views.t)))
    return torch.stack([torch.sin(points[..., axis] + axis) for axis in range(3)], dim=1).float()


@pytest.fixture(scope="module")
def walls():
    K, R, t, depths = (value[0] for value in wall(4, step=0.4))
    return Views(depths, K, R, t)


def test_warped_pixels_have_the_colour_of_their_point(walls):
    images = painted(walls)
    image, known = warp_by_depth(images[:3], Views(*(value[:3] for value in walls)), walls.at(3))
    shown = known[0] > 0.5
    assert 0.3 < shown.float().mean() < 1
    assert (image[:, shown] - images[3][:, shown]).abs().max() < 0.01
    assert not image[:, ~shown].any()


def test_a_frame_warped_into_itself_is_unchanged(walls):
    images = painted(walls)
    image, known = warp_by_depth(images[:1], Views(*(value[:1] for value in walls)), walls.at(0))
    assert known.all()
    assert torch.equal(image, images[0])


def test_the_first_source_that_shows_a_pixel_counts(walls):
    flat = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1).expand(2, 3, HEIGHT, WIDTH)
    image, known = warp_by_depth(flat, Views(*(value[[2, 0]] for value in walls)), walls.at(3))
    alone = warp_by_depth(flat[:1], Views(*(value[[2]] for value in walls)), walls.at(3))[1]
    assert (image[0][alone[0] > 0] == 0.25).all()
    assert set(image[0][known[0] > 0].tolist()) <= {0.25, 0.5}


def test_nothing_is_warped_without_depth(walls):
    nowhere = walls._replace(depths=torch.zeros_like(walls.depths))
    for sources, target in ((nowhere, walls), (walls, nowhere)):
        assert not warp_by_depth(painted(walls), sources, target.at(0))[1].any()


def test_neither_an_occluder_nor_its_edge_is_copied():
    """A far wall at 4 m; the source has a near board at 1 m in its middle columns, which the target does not see."""
    K, eye, zero = intrinsics_from_fov(90.0, height=8, width=16), torch.eye(3), torch.zeros(3)
    far, board = torch.full((8, 16), 4.0), torch.full((8, 16), 4.0)
    board[:, 6:10] = 1.0
    image = torch.where(board == 1.0, 1.0, -1.0).expand(1, 3, 8, 16)
    half_a_pixel = torch.tensor([0.25, 0.0, 0.0])  # f = 8 pixels: at 4 m this moves by half a pixel
    source = Views(*(value[None] for value in (board, K, eye, zero)))
    warped, known = warp_by_depth(image, source, Views(far, K, eye, half_a_pixel))
    assert (warped[:, known[0] > 0.5] == -1).all()
    assert known[0, 0].tolist() == [1.0] * 5 + [0.0] * 5 + [1.0] * 5 + [0.0]


def test_small_holes_are_filled_and_cells_with_large_ones_stay():
    known = torch.ones(1, 8, 8)
    known[0, 1, 1] = 0  # 15 of 16 pixels of the first cell
    known[0, :4, 4:6] = 0  # half of the second
    image = torch.full((3, 8, 8), 0.5) * known
    filled, closed = close_cells(image, known, stride=4)
    assert closed[0, 1, 1] == 1
    assert torch.equal(closed[0, :, 4:], known[0, :, 4:])
    assert (filled - 0.5).abs().max() < 1e-6
    assert torch.equal(close_cells(image, known, stride=4, min_known=1.0)[1], known)


def test_holes_are_filled_from_their_surroundings_alone():
    known = torch.zeros(1, 6, 10)
    known[0, :, :2] = 1
    image = torch.where(known > 0, 0.75, float("nan")).expand(3, -1, -1)
    assert (fill_holes(image, known) - 0.75).abs().max() < 1e-6
    assert not fill_holes(image, torch.zeros_like(known)).any()
