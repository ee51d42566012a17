"""Shards on disk: what other tools read, what a killed run leaves, what a second run does."""

import json
import os
import signal
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from fsspec.implementations.memory import MemoryFileSystem

from mvdiff.cli.main import main
from mvdiff.data.layouts import Source
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.shards.panorama_content import PanoramaFiles
from mvdiff.data.shards.reading import ShardSet
from mvdiff.data.shards.writing import write_shards
from tests.cli.last_lines import next_commands
from tests.data.folders import face_path, write_equirectangular, write_matterport3d
from tests.data.scenes import write_scannet


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_matterport3d(tmp_path_factory.mktemp("mp3d"), num_train=5, num_test=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_webdataset_reads_the_files_byte_for_byte(source, tmp_path):
    assert main(["data", "shard", str(source), "--out", str(tmp_path / "out"), "--shard_size", "30kB"]) == 0
    tars = sorted(str(path) for path in (tmp_path / "out").glob("train-*.tar"))
    assert len(tars) == 3, "two panoramas of 13 kB in each"
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"scene{i}_pano{i}" for i in range(5)]
    for number, sample in enumerate(samples):
        for face in range(6):
            path = source / face_path(f"scene{number}", f"pano{number}", face)
            assert sample[f"face{face}.jpg"] == path.read_bytes()
        assert json.loads(sample["json"])["captions"]["45"] == f"pano{number} towards 45"
    decoded = next(iter(webdataset.WebDataset(tars[0], shardshuffle=False).decode("rgb8")))
    assert decoded["face0.jpg"].shape == (16, 16, 3)


def test_index_and_tar_agree_by_the_tar_module(source, tmp_path):
    write_shards(image_content(source), tmp_path, 30_000)
    for index in tmp_path.glob("*-*.json"):
        values = json.loads(index.read_text())
        tar = index.with_suffix(".tar")
        raw = tar.read_bytes()
        assert values["filesize"] == len(raw)
        assert values["path"] == tar.name
        with tarfile.open(tar) as archive:
            for info in archive:
                place = values["files"][info.name]
                assert raw[place["offset"] : place["offset"] + place["size"]] == archive.extractfile(info).read()


def test_names_that_tars_and_webdataset_would_split_stay_whole(tmp_path):
    source = write_equirectangular(tmp_path / "in", num_train=2, num_test=1)
    odd = "a.b é/".rstrip("/") + "x" * 90
    for ending in (".png", ".json"):
        (source / f"place0{ending}").rename(source / f"{odd}{ending}")
    (source / "train.txt").write_text(f"{odd}\nplace1\n")
    write_shards(image_content(source), tmp_path / "out", 10**9)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False))
    assert [set(sample) - {"__key__", "__url__", "__local_path__"} for sample in samples] == [
        {"panorama.png", "json"}
    ] * 2
    split = ShardSet(tmp_path / "out").split("train")
    assert [split.sample_id(index) for index in range(2)] == [odd, "place1"]


def test_a_sample_is_in_one_shard_and_shards_keep_to_their_size(source, tmp_path):
    result = write_shards(image_content(source), tmp_path, 30_000)
    for split, count in (("train", 5), ("test", 2)):
        shards = result.manifest.splits[split]
        assert sum(shard.samples for shard in shards) == count
        assert all(shard.bytes <= 30_000 + 10_240 for shard in shards)  # tars end in blocks of 10 kB
    one_each = write_shards(image_content(source), tmp_path / "tiny", 1)
    assert [shard.samples for shard in one_each.manifest.splits["train"]] == [1] * 5


def test_workers_change_no_byte_and_a_second_run_writes_nothing(source, tmp_path):
    write_shards(image_content(source), tmp_path / "one", 30_000)
    write_shards(image_content(source), tmp_path / "two", 30_000, num_workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("*.tar")}
    again = write_shards(image_content(source), tmp_path / "one", 30_000)
    assert (again.written, again.kept) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("*.tar")} == times


def write_and_die(source: Path, out: Path, after: int) -> int:
    """Write in another process that kills itself, as `kill -9` does, after a number of samples; return its status."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    try:
        write_shards(
            image_content(source),
            out,
            30_000,
            progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == after else None,
        )
    finally:
        os._exit(1)


@pytest.mark.parametrize("after", [3, 4])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(source, tmp_path, after):
    """Killed in the middle of a shard, and before the index of a full one."""
    write_shards(image_content(source), tmp_path / "whole", 30_000)
    out = tmp_path / "out"
    assert write_and_die(source, out, after) == signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match="Finish `mvdiff data shard`"):
        ShardSet(out)
    result = write_shards(image_content(source), out, 30_000)
    assert (result.written, result.kept) == (3, 1)
    left = {name for name in contents(out) if name.endswith(".partial")}
    assert len(left) == 1
    assert all(name.startswith(".") for name in left)
    assert {name: value for name, value in contents(out).items() if name not in left} == contents(tmp_path / "whole")


def test_other_data_are_refused_unless_they_are_to_be_replaced(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "shard", str(source), "--out", str(out), "--shard_size", "10kB"]) == 0
    said = capsys.readouterr().out
    assert next_commands(said) == ["data check", "fit"]
    assert "fit --config YOUR_RUN.yaml --data.root" in said
    assert main(["data", "shard", str(source), "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["data", "shard", str(source), "--out", str(out), "--overwrite"]) == 0
    assert sorted(contents(out)) == [
        "manifest.json",
        *(f"{split}-000000.{end}" for split in ("test", "train") for end in ("json", "tar")),
    ]
    (out / "manifest.json").unlink()  # as a run of other settings that was killed
    assert main(["data", "shard", str(source), "--out", str(out), "--shard_size", "10kB"]) == 1
    assert "other data or settings" in capsys.readouterr().err
    (out / "train-000000.json").write_text("{}")
    assert main(["data", "shard", str(source), "--out", str(out)]) == 1
    assert "train-000000.json is of others or damaged" in capsys.readouterr().err
    assert main(["data", "shard", str(source), "--out", str(out), "--shard_size", "10kB", "--overwrite"]) == 0
    write_shards(image_content(source), tmp_path / "new", 10_000)
    assert contents(out) == contents(tmp_path / "new")


class Slow(PanoramaFiles):
    """Takes its time for each sample."""

    def members(self, split, index):
        time.sleep(0.2)
        return super().members(split, index)


def test_a_failure_ends_the_other_shards_soon(source, tmp_path):
    def full(done, total):
        if done == 1:
            raise OSError("No space left")

    content = Slow({split: Matterport3DPanoramas(source, split) for split in ("train", "test")}, {})
    with pytest.raises(OSError, match="No space left"):
        write_shards(content, tmp_path, 10**9, num_workers=2, progress=full)
    assert contents(tmp_path) == {}, "neither shard is finished, and no temporary file is left"


def test_a_damaged_shard_that_was_removed_is_written_again(source, tmp_path):
    before = write_shards(image_content(source), tmp_path, 30_000)
    whole = contents(tmp_path)
    (tmp_path / "train-000001.tar").unlink()
    again = write_shards(image_content(source), tmp_path, 30_000)
    assert (again.written, again.kept) == (1, 3)
    assert contents(tmp_path) == whole
    assert again.manifest == before.manifest


def change_byte(path: Path) -> None:
    """Change a file, but not its size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["a picture", "a caption", "nothing"])
def test_a_shard_of_files_that_changed_is_written_again(tmp_path, what, caplog):
    source, out = write_matterport3d(tmp_path / "in", num_train=5, num_test=2), tmp_path / "out"
    write_shards(image_content(source), out, 30_000)
    if what == "a picture":
        change_byte(source / face_path("scene3", "pano3", 2))
    elif what == "a caption":
        (caption,) = source.rglob("*pano3*45*.txt")
        caption.write_text("pano3 towards 54")
    again = write_shards(image_content(source), out, 30_000)
    number = int(what != "nothing")
    assert (again.written, again.kept) == (number, 4 - number)
    said = [record.message for record in caplog.records]
    assert said == number * [
        f"1 of 4 shards in {out} are of files that have changed since (train-000001, ...) and are written again."
    ]
    write_shards(image_content(source), tmp_path / "fresh", 30_000)
    assert contents(out) == contents(tmp_path / "fresh")


def test_shards_whose_index_says_nothing_of_their_files_are_kept(source, tmp_path, caplog):
    write_shards(image_content(source), tmp_path, 30_000)
    for path in tmp_path.glob("*-*.json"):
        values = json.loads(path.read_text())
        del values["sources"]
        path.write_text(json.dumps(values))
    (tmp_path / "train-000001.tar").unlink()
    before = contents(tmp_path)
    again = write_shards(image_content(source), tmp_path, 30_000)
    assert (again.written, again.kept) == (1, 3)
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json", "train-000001.json"}
    assert caplog.records == []
    assert main(["data", "check", str(tmp_path)]) == 0


def test_a_run_that_is_killed_while_it_replaces_shards_leaves_none_that_look_whole(tmp_path):
    source, out = write_matterport3d(tmp_path / "in", num_train=5, num_test=2), tmp_path / "out"
    write_shards(image_content(source), out, 30_000)
    change_byte(source / face_path("scene1", "pano1", 2))
    change_byte(source / face_path("scene3", "pano3", 2))
    assert write_and_die(source, out, 6) == signal.SIGKILL
    assert not (out / "manifest.json").exists()
    assert write_shards(image_content(source), out, 30_000).written == 1
    assert main(["data", "check", str(out)]) == 0


@pytest.mark.parametrize("on_broken", ["error", "skip"])
def test_incomplete_panoramas_stop_or_are_left_out(tmp_path, on_broken, capsys):
    source = write_matterport3d(tmp_path / "in", num_train=3, num_test=1)
    (source / face_path("scene1", "pano1", 2)).unlink()
    status = main(["data", "shard", str(source), "--out", str(tmp_path / "out"), "--on_broken", on_broken])
    assert status == (on_broken == "error")
    if status:
        assert "pano1_skybox2" in capsys.readouterr().err
    else:
        split = ShardSet(tmp_path / "out").split("train")
        assert [split.sample_id(index) for index in range(len(split))] == ["scene0_pano0", "scene2_pano2"]


def test_an_address_receives_the_same_files(source, tmp_path):
    write_shards(image_content(source), tmp_path, 30_000)
    write_shards(image_content(source), "memory://written", 30_000, num_workers=2)
    files = fsspec.filesystem("memory")
    assert {Path(path).name: files.cat_file(path) for path in files.ls("/written", detail=False)} == contents(tmp_path)
    again = write_shards(image_content(source), "memory://written", 30_000)
    assert (again.written, again.kept) == (0, 4)


@pytest.mark.parametrize("failures", [2, 1000])
def test_an_upload_that_fails_is_repeated(source, tmp_path, failures, monkeypatch):
    upload, left = MemoryFileSystem.put_file, [failures]

    def busy(*arguments, **how):
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("503 SlowDown")
        return upload(*arguments, **how)

    monkeypatch.setattr(MemoryFileSystem, "put_file", busy)
    monkeypatch.setattr("mvdiff.data.shards.target._FIRST_WAIT", 0.001)
    place = f"memory://busy{failures}"
    if failures == 2:
        assert write_shards(image_content(source), place, 30_000).written == 4
        assert ShardSet(place).split("train").sample_id(4) == "scene4_pano4"
    else:
        with pytest.raises(OSError, match=r"--out memory://busy1000 cannot be written: 503 SlowDown \(6 attempts\)"):
            write_shards(image_content(source), place, 30_000)


def test_the_folder_of_an_address_is_made(source, tmp_path):
    out = tmp_path / "not" / "there"
    assert main(["data", "shard", str(source), "--out", f"file://{out}", "--shard_size", "30kB"]) == 0
    write_shards(image_content(source), tmp_path / "near", 30_000)
    assert contents(out) == contents(tmp_path / "near")


@pytest.mark.parametrize("kind", ["a file above it", "a folder in it"])
def test_an_error_that_lasts_is_not_repeated(source, tmp_path, kind, monkeypatch, capsys):
    monkeypatch.setattr("mvdiff.data.shards.target._FIRST_WAIT", 0.001)
    out = tmp_path / "above" / "out"
    if kind == "a file above it":
        out.parent.write_text("")
    else:
        (out / "train-000000.tar").mkdir(parents=True)
    assert main(["data", "shard", str(source), "--out", f"file://{out}"]) == 1
    said = capsys.readouterr().err
    assert f"--out file://{out} cannot be written: " in said
    assert "attempts" not in said


def test_out_must_not_be_the_source(source, capsys):
    assert main(["data", "shard", str(source), "--out", str(source / "shards")]) == 1
    assert "must not contain each other" in capsys.readouterr().err
    assert main(["data", "shard", str(source), "--out", "nowhere://x"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["data", "shard", str(source), "--out", "memory://x", "--shard_size", "big"]) == 1
    assert "--shard_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "option", "value", "needed"),
    [
        ("images", "dtype", "bfloat16", "latents"),
        ("images", "dtype", "float32", "latents"),
        ("images", "device", "cuda:7", "latents"),
        ("views", "dtype", "bfloat16", "latents"),
        ("views", "device", "cpu", "latents"),
        *(
            (what, option, value, "images")
            for what in ("views", "latents")
            for option, value in (("on_broken", "skip"), ("max_pixels", "1"), ("data", "my.Panoramas"))
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, what, option, value, needed, capsys):
    run = ["run.yaml", "--what", what, f"--{option}", value]
    with pytest.raises(SystemExit) as stop:
        main(["data", "shard", *run, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"--{option} needs --what {needed}; got --what {what}" in said
    assert len(said.splitlines()) == 1


def test_max_pixels_is_refused_for_recordings(tmp_path, capsys):
    source = write_scannet(tmp_path / "in", num_train=1, num_test=1, num_frames=3)
    assert main(["data", "shard", str(source), "--out", str(tmp_path / "out"), "--max_pixels", "1"]) == 2
    assert f"--max_pixels is for panoramas; got {source}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_of_recordings_byte_for_byte(tmp_path):
    source = write_scannet(tmp_path / "in", num_train=1, num_test=1, num_frames=6)
    (source / "train" / "scene0" / "prompt" / "3.txt").unlink()
    write_shards(image_content(source), tmp_path / "out", 10**9)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"scene0/{frame:06d}" for frame in range(6)]
    scene = source / "train" / "scene0"
    for frame, sample in enumerate(samples):
        assert sample["color.png"] == (scene / "color" / f"{frame}.png").read_bytes()
        assert sample["depth.png"] == (scene / "depth" / f"{frame}.png").read_bytes()
        np.testing.assert_array_equal(json.loads(sample["json"])["pose"], np.loadtxt(scene / "pose" / f"{frame}.txt"))
        assert sample.get("txt") == (None if frame == 3 else f"frame {frame}".encode())


class WithoutADepth(ScanNetScene):
    """Takes frame 1 for usable, but names no depth file for it."""

    def problem(self, frame):
        return None

    def file(self, kind, frame):
        if (kind, frame) == ("depth", 1):
            raise FileNotFoundError("scene0 must have depth 1.")
        return super().file(kind, frame)


def test_a_file_that_is_missing_is_an_error_before_anything_is_written(tmp_path):
    source = write_scannet(tmp_path / "in", num_train=1, num_test=1, num_frames=3)
    with pytest.raises(FileNotFoundError, match="depth 1"):
        write_shards(image_content(source, Source(WithoutADepth)), tmp_path / "out", 1)
    assert contents(tmp_path / "out") == {}


def test_a_frame_whose_picture_depths_or_pose_changed_is_written_again(tmp_path):
    source = write_scannet(tmp_path / "in", num_train=1, num_test=1, num_frames=3)
    scene = source / "train" / "scene0"
    assert write_shards(image_content(source), tmp_path / "out", 1).kept == 0
    for number, file in enumerate(("color/0.png", "depth/1.png")):
        change_byte(scene / file)
        assert write_shards(image_content(source), tmp_path / "out", 1).written == 1, number
    pose = (scene / "pose" / "2.txt").read_text().split()
    pose[3], pose[7] = pose[7], pose[3]
    (scene / "pose" / "2.txt").write_text("\n".join(" ".join(pose[i : i + 4]) for i in range(0, 16, 4)))
    assert write_shards(image_content(source), tmp_path / "out", 1).written == 1
