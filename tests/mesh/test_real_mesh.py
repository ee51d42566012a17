"""A real recording of a kitchen (notes/real-data.md): its frames agree, and the mesh lies where it was measured."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mvdiff.data.recorded_frames import resized_image
from mvdiff.geometry import cell_centres, unproject
from mvdiff.geometry.causes import likely_cause
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


@pytest.mark.parametrize("convention", ["opengl", "inverse", "scalar_first"])
def test_the_mistake_in_its_poses_is_named(kitchen, convention):
    R, t = kitchen.poses()
    if convention == "opengl":
        poses = R @ torch.diag(torch.tensor([1.0, -1, -1], dtype=R.dtype)), t
    elif convention == "inverse":
        poses = R.mT, -(R.mT @ t[:, :, None])[:, :, 0]
    else:
        x, y, z, w = Rotation.from_matrix(R.numpy()).as_quat().T
        poses = torch.from_numpy(Rotation.from_quat(np.stack([w, x, y, z], axis=1)).as_matrix()), t
    assert likely_cause(kitchen, poses).convention == convention


def test_its_colours_are_registered_and_cropped_ones_are_not(kitchen):
    assert check_consistency(kitchen, kitchen.poses()).colour_problem() is None
    cropped = [one._replace(image=resized_image(one.image[15:105], 120, 160)) for one in kitchen]
    problem = check_consistency(cropped).colour_problem()
    assert "needed 0.9" in problem
    assert "stretched 1.33 times in height" in problem


def test_no_stretch_of_it_is_called_unregistered(kitchen):
    frames = list(SelectedFrames(kitchen.frames, size=(60, 80)))
    findings = []
    for first in range(0, len(frames) - 49, 25):
        for num_pairs in (4, 16):
            found = check_consistency(frames[first : first + 50], num_pairs=num_pairs)
            assert found.problem(real_colours=True) is None
            findings.append(found.colour_warning())
    assert sum(finding is not None for finding in findings) <= len(findings) / 4


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
