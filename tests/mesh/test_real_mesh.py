"""A real recording of a kitchen (notes/real-data.md): its frames agree, and the mesh lies where it was measured."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from mvdiff.geometry import cell_centres, unproject
from mvdiff.geometry.consistency import check_consistency
from mvdiff.mesh import SelectedFrames, extract_mesh, fuse, up_axis
from mvdiff.mesh.frames import open_frames

VOXEL = 0.03


@pytest.fixture(scope="module")
def kitchen(test_data):
    folder = test_data / "data" / "scannet" / "train" / "scene7000_00"
    if not folder.is_dir():
        pytest.skip(f"needs the recording at {folder}")
    return SelectedFrames(open_frames(folder), every=5, size=(120, 160))


def test_raw_frames_agree(kitchen):
    found = check_consistency(kitchen, kitchen.poses())
    assert found.agreement > 0.95
    assert found.colour > 0.85
    assert found.problem(real_colours=True) is None
    assert up_axis(kitchen.poses()[0]).tolist() == [0, -1, 0]


def test_transposed_rotations_are_refused(kitchen):
    wrong = [frame._replace(R=frame.R.mT) for frame in kitchen]
    assert "contradict" in check_consistency(wrong).problem(real_colours=True)


def test_the_mesh_lies_where_depths_were_measured(kitchen):
    frames = list(kitchen)[::2]
    mesh = extract_mesh(fuse(frames, VOXEL))
    points, colours = [], []
    for one in frames:
        known = one.depth > 0
        points.append(unproject(cell_centres(120, 160, 1)[known], one.depth[known], one.K, one.R, one.t))
        colours.append(one.image[known])
    points, colours = torch.cat(points).numpy(), torch.cat(colours).numpy()
    away, nearest = cKDTree(points).query(mesh.vertices)
    assert (away < VOXEL).mean() > 0.95
    missed, _ = cKDTree(mesh.vertices).query(points[::20])
    assert (missed < 2 * VOXEL).mean() > 0.9
    # exposure changes along the recording: colours are near, not equal
    assert np.abs(mesh.colours.astype(int) - colours[nearest]).mean() < 25
