"""docs/extend.md, "A layout of posed RGB-D"."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.frame_files import KEY_FRAMES
from mvdiff.data.toyworld.write import write_walk
from mvdiff.samples import find_samples, read_sample
from mvdiff.samples.pixels import read_png
from tests.extend.taking_through import generating, take_through
from tests.training.tiny_depth import tiny_depth_base
from tests.training.tiny_run import tiny_config

CLASS_PATH = "my_recording.MyRecording"


def write_mine(scene, out):
    """Write a scene of ScanNet's layout as that of the class, by formulas of its own."""
    for sub in ("rgb", "depth"):
        (out / sub).mkdir(parents=True)
    count = len(list((scene / "color").iterdir()))
    poses = np.stack([np.loadtxt(scene / "pose" / f"{frame}.txt") for frame in range(count)])
    poses[:, :3, 1:3] *= -1  # the camera's y up and z backwards
    np.save(out / "poses.npy", poses)
    K = np.loadtxt(scene / "intrinsic" / "intrinsic_depth.txt")
    (out / "camera.txt").write_text(f"{K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}\n")
    for frame in range(count):
        Image.open(scene / "color" / f"{frame}.jpg").save(out / "rgb" / f"{frame}.png")
        millimetres = np.asarray(Image.open(scene / "depth" / f"{frame}.png"), np.int64)
        Image.fromarray((5 * millimetres).astype(np.uint16)).save(out / "depth" / f"{frame}.png")
    (scene / "prompt").rename(out / "prompt")
    return out


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One walk to train on, one to validate on, one to test on; (ScanNet's layout, the class's)."""
    root, pairs = tmp_path_factory.mktemp("worlds"), []
    for number, split in enumerate(("train", "train", "test")):
        name = write_walk(root / "scannet" / split, 1, number, 32, 12, arc_deg=75)
        scene = root / "scannet" / split / name
        pairs.append((scene, write_mine(scene, root / "mine" / split / name)))
    return pairs


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for _, mine in scenes:
        assert main(["data", "keyframes", str(mine), "--data", CLASS_PATH]) == 0
    config = tiny_config(folder / "tiny", task="depth", base=str(tiny_depth_base(folder)))
    settings = {"root": str(scenes[0][1].parents[1]), "source": CLASS_PATH, "height": 24, "width": 32, "num_val": 1}
    settings |= {"num_views": 3, "min_frames": 2}
    data = {"class_path": "mvdiff.data.recording_datamodule.RecordingDataModule", "init_args": settings}
    return take_through(folder / "recording", config | {"data": data})


def test_axes_unit_and_principal_point(scenes):
    from my_recording import MyRecording

    scannet, mine = scenes[2]
    source = MyRecording(mine)
    for frame in (0, 5):
        np.testing.assert_allclose(source.load_pose(frame), np.loadtxt(scannet / "pose" / f"{frame}.txt"), atol=1e-12)
        metres = np.asarray(Image.open(scannet / "depth" / f"{frame}.png")) / 1000
        np.testing.assert_allclose(source.load_depths(frame).numpy(), metres, rtol=1e-6)
    K = np.loadtxt(scannet / "intrinsic" / "intrinsic_depth.txt")[:3, :3]
    np.testing.assert_allclose(source.load_intrinsics(0), K, atol=1e-6)
    assert source.frames == list(range(12))


def test_commands_prepare_it(run, scenes, capsys):
    scannet, mine = scenes[2]
    assert (mine / KEY_FRAMES).read_text() == (scannet / KEY_FRAMES).read_text()
    assert main(["data", "check", str(mine), "--data", CLASS_PATH]) == 0
    said = capsys.readouterr().out
    assert "my layout; scenes: 1 in test; images: 24 of 32x24; captions: 12; depth agreement 0.9" in said
    assert "warning" not in said


def test_samples_are_its_key_frames_with_their_depths_and_poses(run, scenes):
    scannet, mine = scenes[2]
    all_keys = [int(word) for word in (mine / KEY_FRAMES).read_text().split()]
    keys = all_keys[:3]
    generated, real = (read_sample(find_samples(run.folder / which)[0]) for which in ("generated", "real"))
    expected = torch.stack([read_png(mine / "rgb" / f"{frame}.png") for frame in keys])
    assert torch.equal(real.images_uint8(), expected)
    poses = np.stack([np.loadtxt(scannet / "pose" / f"{frame}.txt") for frame in keys])
    for sample in (generated, real):
        np.testing.assert_allclose(sample.record.translations(), poses[:, :3, 3], atol=1e-5)
        np.testing.assert_allclose(sample.record.camera_tensors()[1], poses[:, :3, :3], atol=1e-5)
        metres = np.asarray(Image.open(scannet / "depth" / f"{keys[1]}.png")) / 1000
        np.testing.assert_allclose(sample.depths()[1], metres, atol=2e-3)
        assert sample.record.prompts[0] == (mine / "prompt" / f"{keys[0]}.txt").read_text().strip()
    assert not torch.equal(generated.images_uint8(), expected)
    assert run.described("mvdiff.json")["task"] == "depth"
    counts = {run.results[which]["num_samples"] for which in ("generated", "reference")}
    assert counts == {math.ceil(len(all_keys) / 3)}
    assert mine.name in run.page


def test_frames_have_no_pictures_of_a_panorama(run, capsys):
    assert main([*generating(run.folder), "--crop"]) == 1
    assert "--crop and --cube_faces need panoramas; got the frames" in capsys.readouterr().err


def test_a_scene_by_folder_generates_and_fuses(run, scenes, tmp_path, capsys):
    mine = scenes[2][1]
    command = ["generate", "depth", "--model", str(run.model), "--scene", str(mine), "--data", CLASS_PATH]
    command += ["--max_frames", "3", "--num_inference_steps", "1", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "out"), "--reference", str(tmp_path / "real")]) == 0
    first = (mine / KEY_FRAMES).read_text().split()[0]
    assert torch.equal(read_png(tmp_path / "real" / mine.name / "0.png"), read_png(mine / "rgb" / f"{first}.png"))
    mesh = ["mesh", str(mine), "--data", CLASS_PATH, "--voxel_size", "0.2", "--out", str(tmp_path / "mesh.ply")]
    assert main(mesh) == 0
    assert (tmp_path / "mesh.ply").stat().st_size > 1000
