"""Causes of disagreement: each mistake made on purpose, by formulas of its own, is named."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.geometry import intrinsics_from_fov
from mvdiff.geometry.causes import likely_cause
from mvdiff.geometry.consistency import check_consistency
from tests.mesh.worlds import frame

FLIP = np.diag([1.0, -1, -1, 1])


@pytest.fixture(scope="module")
def walk():
    """24 frames of 36 x 48 around a toy room, 15 degrees apart."""
    scene, K = make_walk(0, 3), intrinsics_from_fov(65.0, 36, 48)
    frames = []
    for R, t in walk_poses(0, 3, 24):
        hits = render_view(scene, K, torch.from_numpy(R), t, 36, 48)
        frames.append(frame(hits.distance, K, torch.from_numpy(R), torch.from_numpy(t), np.round(hits.colour * 255)))
    return frames


def changed(walk, pose=lambda pose: pose, depth=1.0):
    """Change the 4x4 poses and the depths."""
    frames = []
    for one in walk:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = one.R, one.t
        matrix = pose(matrix)
        R, t = torch.from_numpy(matrix[:3, :3].copy()), torch.from_numpy(matrix[:3, 3].copy())
        frames.append(one._replace(R=R, t=t, depth=one.depth * depth))
    return frames, (torch.stack([one.R for one in frames]), torch.stack([one.t for one in frames]))


def millimetres(pose):
    return np.concatenate([pose[:, :3], pose[:, 3:] * [[1000], [1000], [1000], [1]]], axis=1)


def transposed(pose):
    result = pose.copy()
    result[:3, :3] = pose[:3, :3].T
    return result


def scalar_first(pose):
    """Write the quaternion as (w, x, y, z) and read it as (x, y, z, w)."""
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    result = pose.copy()
    result[:3, :3] = Rotation.from_quat([w, x, y, z]).as_matrix()
    return result


@pytest.mark.parametrize(
    ("mistake", "convention", "scale"),
    [
        ({"pose": lambda pose: pose @ FLIP}, "opengl", 1),
        ({"pose": np.linalg.inv}, "inverse", 1),
        ({"pose": lambda pose: np.linalg.inv(pose @ FLIP)}, "inverse_opengl", 1),
        ({"pose": transposed}, "transposed", 1),
        ({"pose": scalar_first}, "scalar_first", 1),
        ({"pose": millimetres}, "", 1 / 1000),
        ({"depth": 1000.0}, "", 1000),
        ({"depth": 4.0}, "", 4),
        ({"depth": 5.0}, "", 5),
        ({"depth": 0.25}, "", 1 / 4),
        ({"depth": 0.2}, "", 1 / 5),
        ({"pose": lambda pose: millimetres(pose @ FLIP)}, "opengl", 1 / 1000),
    ],
)
def test_each_mistake_is_named(walk, mistake, convention, scale):
    frames, poses = changed(walk, **mistake)
    assert check_consistency(frames, poses).depth_problem() is not None
    cause = likely_cause(frames, poses)
    assert (cause.convention, cause.scale) == (convention, scale)
    assert cause.consistency.agreement > 0.95


def test_no_cause_is_named_where_none_helps(walk):
    frames, (R, t) = changed(walk)
    order = np.random.default_rng(0).permutation(len(frames))  # poses of other frames
    assert likely_cause(frames, (R[order], t[order])) is None
