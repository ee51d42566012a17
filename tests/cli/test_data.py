import numpy as np

from mvdiff.cli.main import main
from tests.cli.last_lines import next_commands
from tests.data.folders import face_path, truncate, write_matterport3d


def test_check_exits_by_what_it_found(tmp_path, capsys):
    root = write_matterport3d(tmp_path)
    assert main(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    assert next_commands(out) == ["doctor"]
    assert "5 in train.npy" in out
    assert "42 of 16x16" in out
    assert "no problems" in out
    broken = root / face_path("scene1", "pano1", 3)
    truncate(broken)
    assert main(["data", "check", str(root), "--num_workers", "2"]) == 1
    out = capsys.readouterr().out
    assert f"broken face: {broken} (train.npy row 1; " in out
    assert "1 problem: 1 x broken face" in out


def test_split_takes_a_list_of_scenes(tmp_path, capsys):
    root = write_matterport3d(tmp_path / "data")
    names = tmp_path / "scenes.txt"
    names.write_text("scene4\n\nscene6\n")
    assert main(["data", "split", str(root), "--test_scenes", str(names)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["data", "split", str(root), "--test_scenes", str(names), "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "5 train and 2 test panoramas" in said
    assert next_commands(said) == ["data check"]
    assert np.load(root / "test.npy")[:, 0].tolist() == [face_path(f"scene{i}", f"pano{i}", 0) for i in (4, 6)]


def test_toyworld_passes_its_own_check(tmp_path, capsys):
    assert main(["data", "toyworld", str(tmp_path), "--rooms", "2", "--size", "32", "--seed", "3"]) == 0
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1 in test.npy, 1 in train.npy" in said
    assert next_commands(said) == ["doctor"]


def test_wrong_folder_is_one_line(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "does not exist" in err
