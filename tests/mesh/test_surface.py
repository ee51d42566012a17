import json

import numpy as np
import pytest
import torch
import trimesh

from mvdiff.geometry import rotation_from_yaw_pitch
from mvdiff.mesh import Mesh, extract_mesh, fuse, simplified, surface, turned_upright, up_axis, write_mesh
from mvdiff.mesh.reading import read_mesh
from mvdiff.mesh.surface import check_mesh_path
from tests.mesh.worlds import around, ball_colours, ball_frame, camera, frame, plane_frame

CENTRE, RADIUS = (0.3, -0.2, 1.1), 0.5
VOXEL = 0.04


@pytest.fixture(scope="module")
def ball_volume():
    """A ball of radius 0.5 m, seen from 20 places 1.5 m away in images of 48 x 64."""
    size = {"height": 48, "width": 64, "fov": 60.0}
    return fuse([ball_frame(CENTRE, RADIUS, **where) for where in around(CENTRE, 1.5, 20, **size)], VOXEL)


@pytest.fixture(scope="module")
def ball(ball_volume):
    return extract_mesh(ball_volume)


@pytest.fixture
def square():
    """Two triangles in the plane z = 2, counter-clockwise as seen from z = -inf, with sides of another length each."""
    vertices = np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 0.0, 2.0]])
    colours = np.array([[255, 0, 0], [0, 188, 0], [0, 0, 255], [10, 128, 255]], np.uint8)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), colours)


def loaded(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_a_ball_is_a_ball(ball):
    away = np.linalg.norm(ball.vertices - CENTRE, axis=1)
    assert np.abs(away - RADIUS).mean() < VOXEL / 6  # truncation^2 / (6 radius) = 5 mm too large: oblique views
    assert np.abs(away - RADIUS).max() < VOXEL
    closed = loaded(ball)
    assert closed.is_watertight  # the seams between chunks are welded
    assert closed.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)  # positive: faces look outwards
    assert ball.vertices.shape == ball.colours.shape
    assert ball.colours.dtype == np.uint8


def test_a_ball_has_its_colours(ball):
    difference = np.abs(ball.colours.astype(int) - ball_colours(ball.vertices, CENTRE, RADIUS))
    assert difference.mean() < 5
    assert np.quantile(difference, 0.99) < 20


def test_the_split_into_chunks_changes_nothing(ball_volume, ball, monkeypatch):
    monkeypatch.setattr(surface, "CHUNK", 1)
    split = extract_mesh(ball_volume)
    assert split.faces.shape == ball.faces.shape
    corners = [np.sort(mesh.vertices[mesh.faces].sum(axis=1), axis=0) for mesh in (split, ball)]
    np.testing.assert_allclose(*corners, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.sort(split.colours, axis=0), np.sort(ball.colours, axis=0))


def test_golden_a_wall_seen_by_a_camera_turned_right():
    # R_y(+90) looks along +x; from (1, 0.5, -0.5) the wall is 2 m ahead, at x = 3, and looks back, along -x
    K, R, t = camera(yaw=90.0, t=(1.0, 0.5, -0.5))
    mesh = extract_mesh(fuse([frame(np.full((30, 40), 2.0), K, R, t, colour=(200, 100, 50))], 0.1))
    np.testing.assert_allclose(mesh.vertices[:, 0], 3.0, atol=1e-4)
    np.testing.assert_allclose(loaded(mesh).face_normals, np.broadcast_to([-1.0, 0, 0], mesh.faces.shape), atol=1e-3)
    # the camera's x axis is the world's -z: 2 m to either side of z = -0.5, 1.5 m above and below y = 0.5
    np.testing.assert_allclose([mesh.vertices[:, 2].min(), mesh.vertices[:, 2].max()], [-2.5, 1.5], atol=0.11)
    np.testing.assert_allclose([mesh.vertices[:, 1].min(), mesh.vertices[:, 1].max()], [-1.0, 2.0], atol=0.11)
    np.testing.assert_array_equal(mesh.colours, np.broadcast_to([200, 100, 50], mesh.vertices.shape))


def test_no_surface_is_made_up_between_a_thing_and_the_wall_behind_it():
    depth = np.full((30, 40), 3.0)
    depth[8:20, 12:25] = 2.0
    mesh = extract_mesh(fuse([frame(depth, *camera())], 0.05))
    away = np.minimum(np.abs(mesh.vertices[:, 2] - 2), np.abs(mesh.vertices[:, 2] - 3))
    assert (away < 0.05).all()
    assert ((np.abs(mesh.vertices[:, 2] - 2) < 0.05).mean() * 100) > 5


def test_a_surface_that_was_seen_too_little_can_be_left_out():
    # a frame 2 m away weighs 1/4 per voxel straight on, two of them 1/2
    K, R, t = camera()
    depth = np.full((30, 40), 2.0)
    volume = fuse([frame(depth, K, R, t)] * 2, 0.1)
    assert len(extract_mesh(volume, min_weight=0.3).faces) > 0
    with pytest.raises(ValueError, match="the frames must show a surface"):
        extract_mesh(volume, min_weight=0.6)


def test_a_simplified_mesh_keeps_its_shape(ball):
    coarse = simplified(ball, 500)
    assert 200 < len(coarse.faces) <= 500
    assert loaded(coarse).volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.15)
    difference = np.abs(coarse.colours.astype(int) - ball_colours(coarse.vertices, CENTRE, RADIUS))
    assert difference.mean() < 20
    assert simplified(ball, len(ball.faces)) is ball
    with pytest.raises(ValueError, match="max_faces must be at least 1; got 0"):
        simplified(ball, 0)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_upright_turns_up_to_y(axis, sign):
    up = np.eye(3)[axis] * sign
    turned = turned_upright(Mesh(np.vstack([np.eye(3), up]), np.zeros((0, 3), int), np.zeros((4, 3), np.uint8)), up)
    rotation = turned.vertices[:3].T
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(turned.vertices[3], [0, 1, 0], atol=1e-12)


def test_golden_up_is_where_the_tops_of_images_are():
    looking_down = rotation_from_yaw_pitch(torch.tensor([0.0, 90.0, 200.0]), torch.tensor([-40.0, -30.0, -20.0]))
    assert up_axis(looking_down).tolist() == [0, -1, 0]
    # ScanNet: z up; a camera that looks along world y has x_world = x, y_world = z, z_world = -y of the camera
    scannet = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]])
    assert up_axis(scannet).tolist() == [0, 0, 1]


def test_ply_keeps_the_world(tmp_path, square):
    read = trimesh.load(write_mesh(tmp_path / "deep" / "mesh.ply", square), process=False)
    np.testing.assert_allclose(read.vertices, square.vertices)
    np.testing.assert_array_equal(read.faces, square.faces)
    np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], square.colours)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["mesh.ply"]


@pytest.mark.parametrize(
    ("up", "expected"), [(None, [3.0, -1.0, -2.0]), ((0.0, -1.0, 0.0), [3.0, -1.0, -2.0]), ((0, 0, 1.0), [3, 2, -1])]
)
def test_golden_glb_has_y_up_and_linear_colours(tmp_path, square, up, expected):
    path = write_mesh(tmp_path / "mesh.GLB", square, None if up is None else np.array(up))
    read = trimesh.load(path, process=False, force="mesh")
    np.testing.assert_allclose(read.vertices[2], expected, atol=1e-6)  # vertex (3, 1, 2) of the world
    np.testing.assert_array_equal(read.faces, square.faces)
    length = int.from_bytes(path.read_bytes()[12:16], "little")
    tree = json.loads(path.read_bytes()[20 : 20 + length])
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    material = tree["meshes"][0]["primitives"][0]["material"]
    assert "KHR_materials_unlit" in tree["materials"][material]["extensions"]
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    view = tree["bufferViews"][accessor["bufferView"]]
    start = 20 + length + 8 + view["byteOffset"]
    assert (accessor["componentType"], accessor["normalized"], accessor["type"]) == (5123, True, "VEC4")  # 16 bits
    colours = np.frombuffer(path.read_bytes()[start : start + 32], np.uint16).reshape(4, 4)
    # sRGB 188 is half of the light: ((188/255 + 0.055) / 1.055)^2.4 = 0.5029; 128: 0.2159; 10: 10/255/12.92 = 0.003035
    expected = np.round(np.array([[1, 0, 0, 1], [0, 0.50289, 0, 1], [0, 0, 1, 1], [0.0030353, 0.21586, 1, 1]]) * 65535)
    np.testing.assert_allclose(colours, expected, atol=1)


def test_glb_keeps_every_level_of_grey(tmp_path, square):
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    points = np.stack([np.arange(256.0), np.arange(256.0) % 2, np.zeros(256)], axis=1)
    faces = np.arange(254)[:, None] + np.arange(3)
    path = write_mesh(tmp_path / "strip.glb", Mesh(points, faces, levels))
    np.testing.assert_array_equal(read_mesh(path).colours, levels)


def test_an_unknown_ending(tmp_path, square):
    with pytest.raises(ValueError, match=r"out must end in .ply or .glb; got 'mesh.obj'"):
        write_mesh(tmp_path / "mesh.obj", square)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path, square):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.ply").mkdir()
    for path in (tmp_path / "file" / "mesh.ply", tmp_path / "folder.ply"):
        with pytest.raises(OSError, match="out must be a file that can be written; got "):
            check_mesh_path(path)
        with pytest.raises(OSError, match="out must be a file that can be written; got "):
            write_mesh(path, square)
    assert not list(tmp_path.glob(".*"))


def test_nothing_but_free_space():
    # a wall thinner than what two opposite views leave of it: every voxel lies before one surface or the other
    volume = fuse([plane_frame((0, 0, 1), 2.0)], 0.1)
    volume._storage[:, 0] = volume._storage[:, 1]
    with pytest.raises(ValueError, match=r"the frames must show a surface at a voxel_size of 0.1 m; got none in"):
        extract_mesh(volume)
