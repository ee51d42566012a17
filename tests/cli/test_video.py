import re
import sys

import av
import pytest

from mvdiff.cli.main import main
from tests.cli.last_lines import next_commands
from tests.report.folders import write_panorama, write_recording

SMALL = ["--seconds", "1", "--fps", "4", "--height", "16", "--width", "32"]


def test_one_sample_one_file(tmp_path, capsys):
    folder = write_panorama(tmp_path / "out", "a")
    assert main(["video", str(folder), "--out", str(tmp_path / "v.mp4"), *SMALL]) == 0
    said = capsys.readouterr().out
    assert re.search(r"v\.mp4: 4 frames, 1\.0 s, \d\.\d MB", said)
    assert next_commands(said) == ["xdg-open"]
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert [frame.width for frame in container.decode(video=0)] == [32] * 4


def test_several_samples_go_into_a_folder_and_broken_ones_are_named(tmp_path, capsys):
    write_panorama(tmp_path / "out", "a")
    write_recording(tmp_path / "out", "walk", num_frames=3, size=(8, 8))
    (write_panorama(tmp_path / "out", "broken") / "0.png").write_bytes(b"no image")
    (write_panorama(tmp_path / "out", "incomplete") / "sample.json").unlink()
    assert main(["video", str(tmp_path / "out"), "--out", str(tmp_path / "videos"), *SMALL]) == 3
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["a.mp4", "walk.mp4"]
    assert re.search(r"left out .*incomplete: incomplete, its sample\.json is missing", printed)
    assert re.search(r"left out image .*broken/0\.png cannot be read", printed)


@pytest.mark.parametrize("source", ["out", "out/a", "."])
def test_without_out_each_lies_beside_its_sample(source, tmp_path, capsys, monkeypatch):
    folder = write_panorama(tmp_path / "out", "a")
    monkeypatch.chdir(folder if source == "." else tmp_path)
    assert main(["video", source, *SMALL]) == 0
    assert [path.name for path in tmp_path.rglob("*.mp4")] == ["a.mp4"]
    assert f"{tmp_path / 'out' / 'a.mp4'}: 4 frames" in capsys.readouterr().out
    assert main(["video", str(tmp_path / "out"), *SMALL]) == 0  # the video is no sample


def test_user_errors_are_one_line(tmp_path, capsys, monkeypatch):
    write_panorama(tmp_path / "out", "a")
    write_panorama(tmp_path / "out", "b")
    (tmp_path / "empty").mkdir()
    one, many = str(tmp_path / "out" / "a"), str(tmp_path / "out")
    walk = str(write_recording(tmp_path / "walks", "walk", num_frames=2))
    wrong = [
        ([one, "--out", "v.avi"], r"--out must end in \.mp4; got 'v\.avi'\."),
        ([many, "--out", "v.mp4"], r"--out must be a folder where DIR holds several samples \(2\); got v\.mp4"),
        ([str(tmp_path / "empty"), "--out", "v.mp4"], r"DIR must hold a complete sample; got none, in .*empty"),
        ([one, "--height", "15", "--width", "32"], r"--height must be even, from 2 to 16384; got 15\. Use 16\."),
        ([one, "--height", "15"], r"--height must be even, from 2 to 16384; got 15\. Use 16\."),
        ([one, "--height", "-2"], r"--height must be even, from 2 to 16384; got -2\. Use 2\."),
        ([one, "--height", "0"], r"--height must be even, from 2 to 16384; got 0\. Use 2\."),
        ([walk, "--height", "-2"], r"--height must be even, from 2 to 16384; got -2\. Use 2\."),
        ([walk, "--width", "0"], r"--width must be even, from 2 to 16384; got 0\. Use 2\."),
        ([many, "--width", "20000"], r"--width must be even, from 2 to 16384; got 20000\. Use 16384\."),
        ([one, "--out", "v.mp4", "--fps", "-1"], r"--fps must lie between 0.1 and 240; got -1"),
        ([one, "--out", "v.mp4", "--fps", "0"], r"--fps must lie between 0.1 and 240; got 0"),
        ([one, "--out", "v.mp4", "--seconds", "0"], r"--seconds must lie between 0.01 and 3600; got 0"),
        ([one, "--out", "v.mp4", "--seconds", "inf"], r"--seconds must lie between 0.01 and 3600; got inf"),
        ([many, "--out", "videos", "--fov", "500"], r"--fov must lie between 1 and 179; got 500"),
        (
            [many, "--out", "videos", "--seconds", "0.01", "--fps", "1"],
            r"that can be drawn; got none \(num_frames must be at least 1",
        ),
    ]
    monkeypatch.chdir(tmp_path)
    for arguments, expected in wrong:
        assert main(["video", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert re.search(expected, error), error
        assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.mp4"))
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["video", one, "--out", "v.mp4"]) == 1
    assert 'pip install "mvdiff[video]"' in capsys.readouterr().err


def test_a_height_alone_keeps_the_other_side(tmp_path, capsys):
    few = ["--seconds", "1", "--fps", "2", "--height", "16"]
    for sample, width in ((write_panorama(tmp_path, "a"), 640), (write_recording(tmp_path, "w", 2, size=(7, 9)), 10)):
        out = tmp_path / "new" / f"{sample.name}.mp4"
        assert main(["video", str(sample), "--out", str(out), *few]) == 0
        with av.open(str(out)) as container:
            assert {(frame.height, frame.width) for frame in container.decode(video=0)} == {(16, width)}


@pytest.mark.parametrize("kind", [write_panorama, write_recording])
def test_the_only_broken_sample_is_an_error(tmp_path, kind, capsys):
    (kind(tmp_path, "a") / "0.png").write_bytes(b"no image")
    assert main(["video", str(tmp_path), "--out", str(tmp_path / "v.mp4"), *SMALL]) == 1
    assert re.search(r"image .*0\.png cannot be read", capsys.readouterr().err)
