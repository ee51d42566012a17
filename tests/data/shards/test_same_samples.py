"""The same samples from shards as from files, bit for bit, whatever the workers and the order."""

from dataclasses import fields

import pytest
import torch

from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.shards.writing import write_shards
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.whole_panoramas import WholePanoramaDataModule
from mvdiff.geometry.cameras import RingRig
from tests.data.folders import write_equirectangular, write_matterport3d
from tests.data.other_layouts import write_small_transforms, write_small_tum
from tests.data.scenes import write_scannet

RIG = RingRig(num_views=4, height=16, width=16)


def assert_same(one, other):
    batches = [list(loader) for loader in (one, other)]
    assert len(batches[0]) == len(batches[1]) > 0
    for first, second in zip(*batches, strict=True):
        for field in fields(first):
            a, b = getattr(first, field.name), getattr(second, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Toy rooms as files and as shards of a few samples each."""
    root = tmp_path_factory.mktemp("world")
    write_toyworld(root / "files", rooms=4, seed=1, size=24, test_rooms=1, num_frames=14, arc_deg=60)
    for part in ("mp3d_skybox", "scannet"):
        write_shards(image_content(root / "files" / part), root / "shards" / part, 60_000)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_panoramas(world, workers):
    how = {"num_val": 1, "seed": 3, "mirror": True, "known": "mixed", "batch_size": 2, "num_workers": workers}
    files, shards = (Matterport3DDataModule(world / kind / "mp3d_skybox", RIG, **how) for kind in ("files", "shards"))
    for data in (files, shards):
        data.setup("fit")
    assert_same(files.train_dataloader(), shards.train_dataloader())
    for split in ("val", "test"):
        assert_same(files.eval_dataloader(split), shards.eval_dataloader(split))
    assert files.train_dataset().sample_ids() == shards.train_dataset().sample_ids()
    assert torch.equal(files.test_dataset().panorama(0), shards.test_dataset().panorama(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_recordings(world, workers):
    how = {"height": 12, "width": 16, "num_views": 3, "mode": "mixed", "min_frames": 2, "num_val": 1, "seed": 3}
    how |= {"missing_caption": "nearest", "batch_size": 2, "num_workers": workers, "max_between": 2}
    files, shards = (RecordingDataModule(world / kind / "scannet", **how) for kind in ("files", "shards"))
    for data in (files, shards):
        data.setup("fit")
    assert_same(files.train_dataloader(), shards.train_dataloader())
    for split in ("val", "test"):
        assert_same(files.eval_dataloader(split), shards.eval_dataloader(split))


@pytest.mark.parametrize("missing_caption", ["nearest", "empty"])
def test_missing_captions(tmp_path, missing_caption):
    """Frames without caption, with an empty one, and captions of frames without a picture."""
    source = write_scannet(tmp_path / "files", num_train=2, num_test=1, num_frames=8)
    scene = source / "train" / "scene0"
    for frame in (2, 3, 6):
        (scene / "prompt" / f"{frame}.txt").unlink()
    (scene / "prompt" / "4.txt").write_text("\n")
    (scene / "prompt" / "100.txt").write_text("beyond")
    write_shards(image_content(source), tmp_path / "shards", 10_000)
    how = {"height": 6, "width": 8, "mode": "frames", "interval": 1, "num_val": 0, "missing_caption": missing_caption}
    files, shards = (RecordingDataModule(tmp_path / kind, **how) for kind in ("files", "shards"))
    assert_same(files.train_dataloader(), shards.train_dataloader())
    strict = RecordingDataModule(tmp_path / "shards", **how | {"missing_caption": "error"})
    with pytest.raises(FileNotFoundError, match="missing_caption"):
        strict.train_dataset()


@pytest.mark.parametrize("write", [write_small_transforms, write_small_tum])
def test_other_layouts_of_recordings(tmp_path, write):
    for number, split in enumerate(("train", "train", "test")):
        write(tmp_path / "files" / split / f"scene{number}")
    write_shards(image_content(tmp_path / "files"), tmp_path / "shards", 30_000)
    how = {"height": 6, "width": 8, "mode": "frames", "interval": 1, "num_val": 1, "missing_caption": "empty"}
    files, shards = (RecordingDataModule(tmp_path / kind, **how, check_agreement=False) for kind in ("files", "shards"))
    assert_same(files.train_dataloader(), shards.train_dataloader())


def test_other_readers_of_panoramas(world, tmp_path):
    source = write_equirectangular(tmp_path / "files")
    write_shards(image_content(source), tmp_path / "shards", 3_000)
    files, shards = (EquirectangularDataModule(tmp_path / kind, RIG, num_val=1) for kind in ("files", "shards"))
    assert_same(files.train_dataloader(), shards.train_dataloader())
    whole = (
        WholePanoramaDataModule(world / kind / "mp3d_skybox", height=16, num_val=1) for kind in ("files", "shards")
    )
    assert_same(*(data.train_dataloader() for data in whole))


def test_blocks_are_the_same_for_files_and_shards(world):
    how = {"num_val": 0, "seed": 3, "shuffle_block": 2, "mixed_blocks": 1}
    files, shards = (Matterport3DDataModule(world / kind / "mp3d_skybox", RIG, **how) for kind in ("files", "shards"))
    assert_same(files.train_dataloader(), shards.train_dataloader())


def test_errors_name_what_is_wrong(world, tmp_path):
    with pytest.raises(ValueError, match="must hold shards of panoramas; got recordings"):
        Matterport3DDataModule(world / "shards" / "scannet", RIG).train_dataset()
    with pytest.raises(ValueError, match="must hold shards of recordings; got panoramas"):
        RecordingDataModule(world / "shards" / "mp3d_skybox").train_dataset()
    with pytest.raises(FileNotFoundError, match="memory://nowhere must hold shards"):
        Matterport3DDataModule("memory://nowhere", RIG).train_dataset()
    files = write_matterport3d(tmp_path / "files", num_train=1, num_test=1)
    (files / "test.npy").unlink()
    write_shards(image_content(files), "memory://only-train", 10**6)
    with pytest.raises(FileNotFoundError, match="memory://only-train must hold the split 'test'; it holds train"):
        Matterport3DDataModule("memory://only-train", RIG).test_dataset()
    (tmp_path / "manifest.json").write_text('{"format": "mvdiff-shards-0"}')
    with pytest.raises(ValueError, match="mvdiff-shards-1"):
        Matterport3DDataModule(tmp_path, RIG).train_dataset()
