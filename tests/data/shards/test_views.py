"""Shards of views that were cut before."""

import shutil

import pytest
import torch
import yaml

from mvdiff.cli.main import main
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.shards.reading import ShardSet
from mvdiff.data.whole_panoramas import WholePanoramaDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.run_files import config_path
from tests.data.folders import face_path, write_matterport3d

RIG = RingRig(num_views=4, height=8, width=8)
HOW = {"yaw": [90, 37.5], "mirror": True, "num_val": 1, "seed": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("views")
    (root / "files").mkdir()
    write_matterport3d(root / "files", num_train=5, num_test=1)
    rig = {"class_path": "mvdiff.geometry.cameras.RingRig", "init_args": {"num_views": 4, "height": 8, "width": 8}}
    data = {"class_path": "mvdiff.data.datamodule.Matterport3DDataModule"}
    data["init_args"] = HOW | {"root": str(root / "files"), "rig": rig}
    (root / "run.yaml").write_text(yaml.safe_dump({"data": data}))
    data["init_args"] = data["init_args"] | {"yaw": "random"}
    (root / "random.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["data", "shard", str(root / "run.yaml"), "--what", "views", "--out", str(root / "shards")]) == 0
    return root


def test_views_differ_by_their_rounding_alone(world):
    files, shards = (Matterport3DDataModule(world / kind, RIG, **HOW) for kind in ("files", "shards"))
    seen = set()
    for epoch in range(3):
        for index in range(4):
            one, other = (data.train_dataset()[epoch, index] for data in (files, shards))
            assert (one["images"] - other["images"]).abs().max() <= 1 / 255 + 1e-6
            assert one["prompts"] == other["prompts"]
            assert (one["yaw_deg"], one["mirrored"]) == (other["yaw_deg"], other["mirrored"])
            seen.add((one["yaw_deg"], one["mirrored"]))
    assert len(seen) == 4, "both yaws, mirrored and not"
    assert torch.equal(files.test_dataset()[0]["K"], shards.test_dataset()[0]["K"])


def test_a_changed_picture_is_cut_again(world, tmp_path, caplog):
    """Its views have the same size as before, whatever it shows."""
    shutil.copytree(world, tmp_path / "world")
    run = tmp_path / "world" / "run.yaml"
    run.write_text(run.read_text().replace(str(world / "files"), str(tmp_path / "world" / "files")))
    command = ["data", "shard", str(run), "--what", "views", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    before = ShardSet(tmp_path / "out").split("train").sample(0)
    files = tmp_path / "world" / "files"
    shutil.copyfile(files / face_path("scene1", "pano1", 2), files / face_path("scene0", "pano0", 2))
    assert main(command) == 0
    assert "files that have changed since (train-000000" in caplog.text
    after = ShardSet(tmp_path / "out").split("train").sample(0)
    assert {name: len(value) for name, value in before.items()} == {name: len(value) for name, value in after.items()}
    assert before != after


def test_a_cut_is_read_without_the_others(world):
    samples = ShardSet(world / "shards").split("train")
    (member,) = samples.sample(0, ("yaw37.5-mirrored.npy",))
    assert member == "yaw37.5-mirrored.npy"
    with pytest.raises(FileNotFoundError, match=r"no member yaw1\.npy"):
        samples.sample(0, ("yaw1.npy",))


def test_other_cuts_are_an_error_that_says_which_there_are(world):
    other = RingRig(4, height=16, width=16)
    for rig, yaw, got in ((RIG, [90, 45], "yaw 45"), (RIG, "random", "yaw random"), (other, [90], "Rig")):
        data = Matterport3DDataModule(world / "shards", rig, num_val=0, yaw=yaw, max_damaged=2)
        with pytest.raises(ValueError, match=rf"yaws 0, 37\.5, 90, with mirroring; got {got}"):
            data.setup("fit")
    with pytest.raises(ValueError, match=r"must be those of the shards: .*; got Rig"):
        Matterport3DDataModule(world / "shards", other, num_val=0).setup("test")


@pytest.mark.parametrize("workers", [0, 2])
def test_other_cuts_are_no_damage(world, workers):
    """A data module that cuts other views than its rig's finds it out when it reads."""
    how = {"num_val": 0, "yaw": [0], "max_damaged": 4, "num_workers": workers}
    data = WholePanoramaDataModule(world / "shards", height=8, **how)
    with pytest.raises(ValueError, match=r"^data\.rig, data\.yaw and data\.mirror must be those of the shards"):
        next(iter(data.train_dataloader()))


def test_views_without_mirroring_are_not_mirrored(world, tmp_path):
    run = yaml.safe_load((world / "run.yaml").read_text())
    run["data"]["init_args"]["mirror"] = False
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = ["data", "shard", str(tmp_path / "run.yaml"), "--what", "views", "--out", str(tmp_path / "shards")]
    assert main(command) == 0
    Matterport3DDataModule(tmp_path / "shards", RIG, **HOW | {"mirror": False}).setup("fit")
    with pytest.raises(ValueError, match=r"without mirroring; got yaw 90, mirrored"):
        Matterport3DDataModule(tmp_path / "shards", RIG, **HOW).setup("fit")


def test_a_packaged_run_cuts_the_views_of_its_own_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_matterport3d(tmp_path / "data" / "mp3d_skybox", num_train=1, num_test=1)
    assert main(["data", "shard", "pano_latents.yaml", "--what", "views", "--out", "shards"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(", or mvdiff fit --config pano_latents.yaml --data.root shards")
    run = yaml.safe_load(config_path("pano_latents.yaml").read_text())
    assert ShardSet("shards").manifest.settings["yaws"] == run["data"]["init_args"]["yaw"]
    assert main(["data", "check", "shards"]) == 0
    assert capsys.readouterr().out.endswith("Next: mvdiff fit --config YOUR_RUN.yaml --data.root shards\n")


def test_what_cannot_be_cut_before(world, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["data", "shard", str(world / "random.yaml"), "--what", "views", *out]) == 1
    assert "data.yaw must be a list" in capsys.readouterr().err
    assert main(["data", "shard", str(world / "files"), "--what", "views", *out]) == 1
    assert "YAML file of a run" in capsys.readouterr().err
    assert main(["data", "shard", str(world / "run.yaml"), *out]) == 1
    assert "a folder for --what images" in capsys.readouterr().err


def copied(world, tmp_path):
    """A copy of the files to damage, and the command that cuts their views."""
    shutil.copytree(world / "files", tmp_path / "files")
    run = tmp_path / "run.yaml"
    run.write_text((world / "run.yaml").read_text().replace(str(world / "files"), str(tmp_path / "files")))
    return tmp_path / "files", ["data", "shard", str(run), "--what", "views", "--out", str(tmp_path / "out")]


def test_a_broken_test_panorama_stops(world, tmp_path, capsys):
    files, command = copied(world, tmp_path)
    (files / face_path("scene5", "pano5", 2)).unlink()
    assert main(command) == 1
    assert "pano5_skybox2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_data_without_a_test_split_give_shards_of_the_other(world, tmp_path, kind, caplog):
    files, command = copied(world, tmp_path)
    (files / "test.npy").unlink()
    if kind == "shards":
        assert main(["data", "shard", str(files), "--out", str(tmp_path / "images")]) == 0
        run = tmp_path / "run.yaml"
        run.write_text(run.read_text().replace(str(files), str(tmp_path / "images")))
    assert main(command) == 0
    assert "has no split 'test'" in caplog.text
    manifest = ShardSet(tmp_path / "out").manifest
    assert list(manifest.splits) == ["train"]
    assert manifest.num_samples("train") == 5
