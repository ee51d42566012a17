"""Registration of colour: images that were warped by grid_sample, not by the code under test, are told apart."""

import pytest
import torch
import torch.nn.functional as F

from mvdiff.geometry.consistency import Consistency, check_consistency
from mvdiff.geometry.registration import OTHERS, Placement
from tests.geometry.test_causes import walk  # noqa: F401

REGISTERED = {"agreement": 0.97, "colour_unmoved": 0.3, "shared": 0.4, "num_pairs": 8, "colour_pairs": 8}


def warped(image, zoom_x=1.0, zoom_y=1.0, right=0.0):
    """Enlarge an image about its middle and shift it right by a share of its width."""
    theta = torch.tensor([[[1 / zoom_x, 0, -2 * right / zoom_x], [0, 1 / zoom_y, 0]]])
    image = image.permute(2, 0, 1)[None].float()
    grid = F.affine_grid(theta, image.shape, align_corners=False)
    pixels = F.grid_sample(image, grid, align_corners=False, padding_mode="border")
    return pixels[0].permute(1, 2, 0).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("how", "placement"),
    [
        ({"zoom_x": 1.2, "zoom_y": 1.2}, "enlarged 1.2 times"),
        ({"zoom_x": 0.83, "zoom_y": 0.83}, "reduced to 0.83"),
        ({"zoom_y": 4 / 3}, "stretched 1.33 times in height"),
        ({"zoom_x": 4 / 3}, "stretched 1.33 times in width"),
        ({"right": 0.05}, "shifted right by 4% of the width"),
    ],
)
def test_colours_of_another_camera_are_found_and_placed(walk, how, placement):  # noqa: F811
    problem = check_consistency([one._replace(image=warped(one.image, **how)) for one in walk]).colour_problem()
    assert "its colour is not registered to its depth (colour correlation 0." in problem
    assert f"if it is taken as {placement})" in problem


def test_registered_colours_fit_nowhere_better(walk):  # noqa: F811
    found = check_consistency(walk)
    assert found.colour_problem() is None
    assert 1 - found.colour_placed > 1.3 * (1 - found.colour)


@pytest.mark.parametrize(
    ("colour", "placed", "pairs", "sure"),
    [
        (0.94, 0.93, 8, None),
        (0.84, 0.83, 8, False),  # no other placement fits: noise, exposure, plain walls
        (0.94, 0.98, 8, False),  # still a good correlation
        (0.84, 0.94, 7, False),  # few pairs
        (0.84, 0.94, 8, True),
    ],
)
def test_golden_colours_are_unregistered_where_everything_says_so(colour, placed, pairs, sure):
    measured = REGISTERED | {"colour_pairs": pairs}
    found = Consistency(colour=colour, colour_placed=placed, placement=OTHERS[0], **measured)
    problem, warning = found.colour_problem(), found.colour_warning()
    assert (problem is not None, warning is not None) == (sure is True, sure is False)
    assert "is not registered" in (problem or "is not registered")
    assert f"may not be registered to its depth (colour correlation {colour:.3f}" in (
        warning or f"may not be registered to its depth (colour correlation {colour:.3f}"
    )


@pytest.mark.parametrize("plain", ["white walls", "all dark"])
def test_noise_on_plain_walls_and_in_the_dark_is_not_judged(walk, plain):  # noqa: F811
    noise = torch.Generator().manual_seed(0)

    def seen(one, contrast, base):
        image = base + contrast * one.image.float() + 3 * torch.randn(one.image.shape, generator=noise)
        return one._replace(image=image.round().clamp(0, 255).to(torch.uint8))

    if plain == "white walls":
        frames = [seen(one, 3 / 60, 220) if i % 4 == 0 else one for i, one in enumerate(walk)]
    else:
        frames = [seen(one, 0.15, 5) for one in walk]
    found = check_consistency(frames)
    assert found.problem(real_colours=True) is None
    assert found.colour_warning() is None
    assert found.colour_pairs < found.num_pairs


def test_golden_a_placement():
    # 5 x 3 pixels: the middle is (2, 1); twice as wide, one pixel (0.2 of the width) to the right
    xy = torch.tensor([[2.0, 1.0], [3.0, 2.0]])
    assert Placement(zoom_x=2.0, shift_x=0.2).apply(xy, 3, 5).tolist() == [[3.0, 1.0], [5.0, 2.0]]
