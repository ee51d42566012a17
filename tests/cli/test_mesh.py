import shutil

import numpy as np
import pytest
import trimesh
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.toyworld.write import write_walk
from tests.cli.last_lines import next_commands
from tests.mesh.test_frames import write_frames
from tests.mesh.worlds import plane_frame


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """16 frames of a toy room, 48 x 64, 22.5 degrees apart."""
    root = tmp_path_factory.mktemp("scannet")
    return root / write_walk(root, 0, 3, 64, 16)


@pytest.fixture
def transposed(scene, tmp_path):
    """The same with the rotations of its poses transposed."""
    folder = tmp_path / "transposed"
    (folder / "pose").mkdir(parents=True)
    for sub in ("color", "depth", "intrinsic"):
        (folder / sub).symlink_to(scene / sub)
    for path in (scene / "pose").iterdir():
        pose = np.loadtxt(path)
        pose[:3, :3] = pose[:3, :3].T
        np.savetxt(folder / "pose" / path.name, pose)
    return folder


def test_a_scene_becomes_a_mesh(scene, tmp_path, capsys):
    out = tmp_path / "new" / "mesh.ply"
    assert main(["mesh", str(scene), "--out", str(out), "--voxel_size", "0.1", "--every", "2"]) == 0
    said, mesh = capsys.readouterr().out, trimesh.load(out, process=False)
    assert "8 frames; depth agreement 0.9" in said
    assert next_commands(said) == ["report"]
    assert f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles; voxels of 0.1 m" in said
    assert len(mesh.vertices) > 5000
    lowest = np.quantile(mesh.vertices[:, 1], 0.99)
    assert lowest == pytest.approx(0, abs=0.1)  # the floor, y down as in the poses


def test_a_mesh_may_lie_in_the_scene_but_replaces_none_of_its_files(scene, tmp_path, capsys):
    copy = tmp_path / "scene"
    shutil.copytree(scene, copy)
    small = ["--voxel_size", "0.1", "--every", "4"]
    for _ in range(2):  # the second replaces the mesh of the first
        assert main(["mesh", str(copy), "--out", str(copy / "mesh.ply"), *small]) == 0
    before = (copy / "color" / "0.jpg").read_bytes()
    assert main(["mesh", str(copy), "--out", str(copy / "color" / "0.jpg"), *small]) != 0
    assert "must end in .ply or .glb" in capsys.readouterr().err
    assert (copy / "color" / "0.jpg").read_bytes() == before


def test_a_glb_stands_upright(scene, tmp_path):
    out = tmp_path / "mesh.glb"
    assert main(["mesh", str(scene), "--out", str(out), "--voxel_size", "0.1", "--height", "24", "--width", "32"]) == 0
    vertices = trimesh.load(out, process=False, force="mesh").vertices
    assert np.quantile(vertices[:, 1], 0.01) == pytest.approx(0, abs=0.1)  # the floor is below
    assert vertices[:, 1].max() > 2


def test_a_sample_becomes_a_mesh(tmp_path, capsys):
    frames = [plane_frame((0, 0, 1), 2.0, (30 * i, 100, 50), t=(0.4 * i, 0, 0)) for i in range(3)]
    folder, out = write_frames(tmp_path / "s", frames), tmp_path / "mesh.ply"
    assert main(["mesh", str(folder), "--out", str(out), "--truncation", "0.1", "--max_depth", "3"]) == 0
    np.testing.assert_allclose(trimesh.load(out).vertices[:, 2], 2, atol=1e-3)
    assert "3 frames; depth agreement 1.000" in capsys.readouterr().out


def test_frames_that_contradict_each_other_are_refused_unless_forced(transposed, capsys):
    out = transposed.parent / "mesh.ply"
    arguments = ["mesh", str(transposed), "--out", str(out), "--voxel_size", "0.1"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert f"the frames of SOURCE must agree with each other; got ones that do not, in {transposed}: " in shown.err
    assert "its depths contradict each other" in shown.err
    assert "likely cause: the rotations of its poses are transposed (agreement is then 0.9" in shown.err
    assert "depth agreement 0." in shown.out
    assert not out.exists()
    assert main([*arguments, "--force"]) == 0
    assert "fused because of --force" in capsys.readouterr().out
    assert out.exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"--out": "mesh.obj"}, "out must end in .ply or .glb; got 'mesh.obj'"),
        ({"--out": "file/mesh.ply"}, "out must be a file that can be written"),
        ({"--voxel_size": "0.0005", "--max_memory": "0.1"}, "max_memory (0.1 GiB)"),
        ({"--voxel_size": "-1"}, "voxel_size must be a length"),
        ({"--max_depth": "0.1"}, "frames must have depths within max_depth"),
        ({"--every": "0"}, "every must be at least 1; got 0"),
        ({"--every": "-2"}, "every must be at least 1; got -2"),
        ({"--max_memory": "0"}, "max_memory must be a positive number of GiB, or inf; got 0"),
        ({"--max_memory": "nan"}, "max_memory must be a positive number of GiB, or inf; got nan"),
        ({"--truncation": "inf"}, "truncation must be at least a voxel, 0.02 m, and at most 1e+06 m; got inf"),
    ],
)
def test_what_cannot_be_done(scene, tmp_path, capsys, changes, text):
    (tmp_path / "file").write_text("")
    options = {"--out": "mesh.ply", **changes}
    options["--out"] = str(tmp_path / options["--out"])
    assert main(["mesh", str(scene), *[part for option in options.items() for part in option]]) == 1
    assert text in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("size", [("0", "8"), ("8", "-1")])
def test_a_size_that_is_none(scene, tmp_path, capsys, size):
    assert main(["mesh", str(scene), "--out", str(tmp_path / "mesh.ply"), "--height", size[0], "--width", size[1]]) == 1
    assert f"size must be a height and a width of at least 1 pixel; got ({', '.join(size)})" in capsys.readouterr().err


def test_settings_are_refused_before_frames_are_read(tmp_path, capsys):
    nowhere, out = str(tmp_path / "nowhere"), str(tmp_path / "mesh.ply")
    assert main(["mesh", nowhere, "--out", out, "--max_memory", "nan"]) == 1
    assert "max_memory must be a positive number of GiB, or inf; got nan" in capsys.readouterr().err


def test_a_scene_with_hardly_any_depth_is_told_so(scene, tmp_path, capsys):
    folder = tmp_path / "scene"
    (folder / "depth").mkdir(parents=True)
    for sub in ("color", "pose", "intrinsic"):
        (folder / sub).symlink_to(scene / sub)
    depth = np.zeros((48, 64), np.uint16)
    depth[10, 10] = 1500
    for path in (scene / "depth").iterdir():
        Image.fromarray(depth).save(folder / "depth" / path.name)
    arguments = ["mesh", str(folder), "--out", str(tmp_path / "mesh.ply")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    for text in ("its depth is missing", "0.0%", str(folder / "depth"), "--force"):
        assert text in error
    assert "poses" not in error
    main([*arguments, "--voxel_size", "0.1", "--force"])
    said = capsys.readouterr().out
    assert "warning: the frames of SOURCE must have depth" in said
    assert "poses" not in said


def test_a_sample_without_any_depth_is_told_so(tmp_path, capsys):
    frames = [plane_frame((0, 0, 1), 2.0, t=(0.4 * i, 0, 0)) for i in range(3)]
    folder = write_frames(tmp_path / "s", [one._replace(depth=0 * one.depth) for one in frames])
    arguments = ["mesh", str(folder), "--out", str(tmp_path / "mesh.ply")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    for text in ("its depth is missing", "0.0%", f"in {folder / 'depth'}. Put depth images"):
        assert text in error
    assert main([*arguments, "--force"]) == 1
    assert f"got none in 3 frames, such as {folder}" in capsys.readouterr().err


def test_a_source_that_is_none(tmp_path, capsys):
    assert main(["mesh", str(tmp_path / "nowhere"), "--out", str(tmp_path / "mesh.ply")]) == 1
    assert "SOURCE must be a sample folder (with sample.json) or a scene" in capsys.readouterr().err
