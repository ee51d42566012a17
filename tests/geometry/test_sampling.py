import ast
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mvdiff import geometry
from mvdiff.data.toyworld import write
from mvdiff.geometry import (
    cell_centres,
    cell_from_pixel,
    normalized_from_pixel,
    pixel_from_cell,
    pixel_from_normalized,
    sample_bilinear,
)


def test_golden_cell_centres_have_their_half_pixels():
    # A cell of stride 8 covers pixels 0..7: its middle is 3.5, not 4 and not 0.
    assert [pixel_from_cell(cell, stride=8) for cell in (0, 1, 5)] == [3.5, 11.5, 43.5]
    assert cell_from_pixel(0.0, stride=8) == -0.4375  # (0 - 3.5) / 8
    assert pixel_from_cell(7, stride=1) == 7


@given(st.floats(-1e4, 1e4), st.integers(1, 64))
def test_there_and_back(cell, stride):
    assert cell_from_pixel(pixel_from_cell(cell, stride), stride) == pytest.approx(cell, abs=1e-9)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_matches_area_downsampling(stride):
    # Averaging blocks of an image that holds its own x and y must give the cells' centres.
    pixels = cell_centres(16, 24, stride=1)
    averaged = F.avg_pool2d(pixels.permute(2, 0, 1), stride).permute(1, 2, 0)
    assert torch.equal(cell_centres(16, 24, stride), averaged)


def test_cell_centres_of_a_partly_filled_last_cell():
    assert cell_centres(5, 9, stride=4).shape == (2, 3, 2)
    assert cell_centres(5, 9, stride=4)[1, 2].tolist() == [9.5, 5.5]  # (x, y)


def test_golden_normalized_coordinates():
    xy = torch.tensor([[-0.5, -0.5], [7.5, 3.5], [0.0, 0.0]])
    assert normalized_from_pixel(xy, height=4, width=8).tolist() == [[-1, -1], [1, 1], [-0.875, -0.75]]


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "grid-constant"), ("border", "nearest")])
def test_matches_scipy_inside_and_outside(padding, mode):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    xy = torch.rand(2, 4, 6, 2, generator=generator, dtype=torch.float64) * torch.tensor([11.0, 9.0]) - 2
    expected = np.empty((2, 3, 4, 6))
    for b in range(2):
        for c in range(3):
            yx = xy[b].flip(-1).permute(2, 0, 1).numpy()
            expected[b, c] = map_coordinates(images[b, c].numpy(), yx, order=1, mode=mode, cval=0.0)
    torch.testing.assert_close(sample_bilinear(images, xy, padding=padding), torch.from_numpy(expected))


def test_whole_coordinates_return_the_pixels():
    images = torch.rand(1, 2, 4, 6)
    torch.testing.assert_close(sample_bilinear(images, cell_centres(4, 6, stride=1)[None]), images)


def test_gradients_flow_to_images_and_positions():
    images = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[[1.3, 0.7], [2.2, 1.6]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample_bilinear, (images, xy))


def test_batch_must_agree():
    with pytest.raises(ValueError, match=r"xy must have shape \[B, ..., 2\] with B = 2.*; got \[3, 5, 2\]"):
        sample_bilinear(torch.zeros(2, 1, 4, 4), torch.zeros(3, 5, 2))


@given(st.floats(-50, 50), st.floats(-50, 50), st.integers(1, 40), st.integers(1, 40))
def test_normalized_coordinates_there_and_back(x, y, height, width):
    xy = torch.tensor([x, y], dtype=torch.float64)
    relative = normalized_from_pixel(xy, height, width)
    torch.testing.assert_close(pixel_from_normalized(relative, height, width), xy)


FILES = [*sorted(Path(geometry.__file__).parent.glob("*.py")), Path(write.__file__)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_half_pixels_live_in_sampling_alone(path):
    constants = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    halves = [node.lineno for node in constants if node.value == 0.5]
    assert path.stem == "sampling" or not halves, f"half pixels in {path.name}, lines {halves}"
