"""Mesh files read again: what was written, and what others write."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from mvdiff.mesh import Mesh, turned_upright, write_mesh
from mvdiff.mesh.reading import read_mesh

MESH = Mesh(
    np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]),
    np.array([[0, 2, 1], [0, 1, 3]]),
    np.array([[255, 0, 0], [0, 128, 10], [3, 60, 200], [90, 90, 90]], np.uint8),
)
Z_UP = np.array([0.0, 0.0, 1.0])


@pytest.mark.parametrize("up", [None, Z_UP], ids=["y down", "z up"])
def test_ply_and_glb_show_the_same(tmp_path, up):
    """The axes differ in the files, and glTF's colours are linear; what is read is upright and sRGB both times."""
    expected = turned_upright(MESH, np.array([0.0, -1.0, 0.0]) if up is None else up)
    for name, atol in (("mesh.ply", 0), ("mesh.glb", 6)):  # dark colours of 8 linear bits are coarse
        read = read_mesh(write_mesh(tmp_path / name, MESH, up), up)
        np.testing.assert_allclose(read.vertices, expected.vertices, atol=1e-6)
        np.testing.assert_array_equal(read.faces, MESH.faces)
        np.testing.assert_allclose(read.colours.astype(int), MESH.colours, atol=atol)


def test_parts_of_a_scene_are_placed_and_joined(tmp_path):
    scene = trimesh.Scene()
    for shift in (0, 5):
        part = trimesh.Trimesh(MESH.vertices, MESH.faces, process=False)
        scene.add_geometry(part, transform=trimesh.transformations.translation_matrix([shift, 0, 0]))
    scene.export(tmp_path / "two.glb")
    read = read_mesh(tmp_path / "two.glb")
    assert sorted(read.vertices[:, 0]) == [0, 0, 0, 1, 5, 5, 5, 6]
    assert read.faces.max() == 7
    assert len(np.unique(read.colours, axis=0)) == 1  # grey, as nothing else is said


def test_a_texture_gives_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[[250, 0, 0]], [[0, 0, 250]]], np.uint8))  # red above blue
    visual = trimesh.visual.TextureVisuals(uv=[[0.5, 0.99], [0.5, 0.99], [0.5, 0.01], [0.5, 0.01]], image=picture)
    trimesh.Trimesh(MESH.vertices, MESH.faces, visual=visual, process=False).export(tmp_path / "textured.glb")
    colours = read_mesh(tmp_path / "textured.glb").colours
    assert colours[0].argmax() == 0
    assert colours[3].argmax() == 2


def test_files_that_are_no_meshes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mesh must be a file; got .*none\.ply"):
        read_mesh(tmp_path / "none.ply")
    (tmp_path / "mesh.obj").write_text("")
    with pytest.raises(ValueError, match=r"mesh must end in \.ply or \.glb; got 'mesh\.obj'"):
        read_mesh(tmp_path / "mesh.obj")
    (tmp_path / "mesh.ply").write_bytes(b"ply?")
    with pytest.raises(ValueError, match=r"mesh .*mesh\.ply cannot be read"):
        read_mesh(tmp_path / "mesh.ply")
    trimesh.PointCloud(MESH.vertices).export(tmp_path / "points.ply")
    with pytest.raises(ValueError, match=r"mesh must have triangles; got none, in .*points\.ply"):
        read_mesh(tmp_path / "points.ply")
