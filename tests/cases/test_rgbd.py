"""Posed RGB-D recordings of users: what each command says of them."""

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.layouts import open_recording
from mvdiff.data.recording_datamodule import RecordingDataModule


def run(capsys, *arguments):
    """Run a command; return its exit status and all that it printed."""
    status = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def as_data_set(scene, tmp_path):
    """A data set whose only training scene is the case."""
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "room").symlink_to(scene)
    return RecordingDataModule(tmp_path / "set", num_views=3, min_frames=2, num_val=0)


def test_21_colour_of_another_aspect_ratio(case, shows, capsys, tmp_path):
    scene = case(21) / "scene"
    named = "colour is 64x36, depth is 64x48: their aspect ratios differ"
    for command in ("data check", "data keyframes", "mesh"):
        out = ["--out", tmp_path / "mesh.ply"] if command == "mesh" else []
        status, text = run(capsys, *command.split(), scene, *out)
        assert status == 1
        assert named in text
        shows(21, f"`{command}`", f"exit {status}: colour is not registered to depth ({named})")
    assert not (tmp_path / "mesh.ply").exists()
    with pytest.raises(ValueError, match=named) as error:
        as_data_set(scene, tmp_path).setup("fit")
    shows(21, "data set", str(error.value).partition(": ")[2])


def test_22_depth_in_quarter_millimetres(case, shows, capsys, tmp_path):
    scene = case(22) / "scene"
    named = "likely cause: its depth images have units of 0.25 mm and are read as 1 mm"
    for command in ("data check", "data keyframes", "mesh"):
        out = ["--out", tmp_path / "mesh.ply"] if command == "mesh" else []
        status, text = run(capsys, *command.split(), scene, *out)
        assert status == 1
        assert named in text
        assert "set depth_units_per_metre to 4000" in text
        shows(22, f"`{command}`", f"exit {status}: {named}; set depth_units_per_metre to 4000")
    with pytest.raises(ValueError, match=named):
        as_data_set(scene, tmp_path).setup("fit")
    shows(22, "data set, `fit`", f"refused: {named}")
    settings = tmp_path / "quarter.yaml"
    settings.write_text("class_path: mvdiff.data.scannet.ScanNetScene\ninit_args: {depth_units_per_metre: 4000}\n")
    status, text = run(capsys, "data", "check", scene, "--data", settings)
    assert (status, "no problems" in text) == (0, True)
    shows(22, "`data check` with the named setting", f"exit {status}: no problems")


def test_23_65535_means_none(case, shows, capsys, tmp_path):
    scene = case(23) / "scene"
    status, text = run(capsys, "data", "check", scene)
    assert status == 0
    assert "8 x depth image with 65535, read as no depth" in text
    shows(23, "`data check`", f"exit {status}: 8 x depth image with 65535, read as no depth")
    status, text = run(capsys, "data", "keyframes", scene, "--overwrite")
    assert (status, "depth agreement 0.98" in text) == (0, True)
    shows(23, "`data keyframes`", f"exit {status}: depth agreement 0.98")
    status, text = run(capsys, "mesh", scene, "--out", tmp_path / "mesh.ply", "--voxel_size", "0.1")
    assert (status, "depth agreement 0.983" in text) == (0, True)
    shows(23, "`mesh`", f"exit {status}: depth agreement 0.983, nothing at 65.5 m")
    depths = as_data_set(scene, tmp_path).train_dataset()[0]["depths"]
    holes = torch.from_numpy(np.stack([open_recording(scene).depths(0, 192, 256).numpy()])) == 0
    assert depths.max() < 10
    assert holes.float().mean() == pytest.approx(20 * 16 / (64 * 48), abs=0.01)
    shows(23, "depth condition of a sample", f"largest depth {depths.max():.1f} m; the hole is 0, no depth")
