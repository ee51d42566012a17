"""Depth correspondences in a real recording: they lead to the same colours, and those of wrong poses do not."""

import pytest
import torch

from mvdiff.data.scannet import ScanNetScene
from mvdiff.geometry import (
    DEFAULT_DEPTH_TOLERANCE,
    depth_correspondence,
    depth_tap_geometry,
    overlap_matrix,
    overlap_neighbours,
    sample_bilinear,
)

HEIGHT, WIDTH = 192, 256
STARTS = (30, 150, 240)
WRONG = {
    "rotations transposed": lambda source, target: ((source[0].mT, source[1]), (target[0].mT, target[1])),
    "inverted": lambda *poses: tuple((R.mT, -R.mT @ t) for R, t in poses),
    "no motion": lambda source, target: (source, source),
}


@pytest.fixture(scope="module")
def frames(test_data):
    """Read frames of the kitchen: image, depths, K, R, t."""
    folder = test_data / "data" / "scannet" / "train" / "scene7000_00"
    if not folder.is_dir():
        pytest.skip(f"needs the recording in {folder}")
    scene = ScanNetScene(folder)

    def read(frame):
        image, depths = scene.image(frame, HEIGHT, WIDTH), scene.depths(frame, HEIGHT, WIDTH)
        return image, depths, scene.intrinsics(HEIGHT, WIDTH), *scene.pose(frame)

    return {frame: read(frame) for start in STARTS for frame in (start, start + 10, start + 25, start + 50)}


def correlations(frames, gap, tolerance, change=lambda source, target: (source, target)):
    """Correlate grey values of frames with those that frames later show of the same points; also the shares of pixels.

    Returns:
        [starts, 2]: normalised cross-correlation, share of all pixels compared.
    """
    rows = []
    for start in STARTS:
        (image, depths, K, *source), (other, other_depths, _, *target) = frames[start], frames[start + gap]
        source, target = change(source, target)
        xy, visible = depth_correspondence(depths, K, *source, other_depths, K, *target, tolerance)
        warped = sample_bilinear(other[None].double(), xy[visible][None])[0].mean(0)
        grey = torch.stack([image.mean(0)[visible].double(), warped])
        rows.append((float(torch.corrcoef(grey)[0, 1]), float(visible.double().mean())))
    return torch.tensor(rows)


@pytest.mark.parametrize(("gap", "least", "share"), [(10, 0.95, 0.5), (25, 0.9, 0.35), (50, 0.85, 0.15)])
def test_corresponding_points_have_the_same_colours(frames, gap, least, share):
    right = correlations(frames, gap, DEFAULT_DEPTH_TOLERANCE)
    assert right[:, 0].min() > least
    assert right[:, 1].min() > share
    untested = correlations(frames, gap, None)[:, 0].mean()
    assert right[:, 0].mean() > untested  # occluded points have other colours
    for name, change in WRONG.items():
        assert correlations(frames, gap, None, change)[:, 0].mean() < untested - 0.2, name


def test_neighbours_and_taps_of_real_frames(frames):
    numbers = sorted(frames)
    _, depths, K, R, t = (torch.stack(values) for values in zip(*frames.values(), strict=True))
    order = torch.tensor([list(frames).index(number) for number in numbers])
    depths, K, R, t = (values[order] for values in (depths, K, R, t))
    overlap = overlap_matrix(K, R, t, depths)
    has_depth = (depths[:, 2::4, 2::4] > 0).double().mean(dim=(1, 2))
    assert torch.allclose(overlap.diagonal(), has_depth)  # a frame shows all of itself that has a depth
    assert (overlap <= has_depth[:, None]).all()
    neighbours = overlap_neighbours(overlap)
    geometry = depth_tap_geometry(K, R, t, depths, 8, neighbours)
    assert (geometry.height, geometry.width) == (24, 32)
    middle = geometry.displacement[..., 4, :][geometry.visible[..., 4]].norm(dim=-1)
    assert len(middle) > 5000
    assert middle.median() < 0.1  # cells: both frames' own depths lead there and back
    assert middle.quantile(0.95) < 0.5
