"""Shards at addresses: ranges, retries, and what damage costs."""

import logging
import os
import pickle
from pathlib import Path

import fsspec
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.shards.cache import RangeCache
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.reading import ShardSet
from mvdiff.settings import ShardSettings
from tests.data.shards.reader import QUICK, RIG, all_views, views
from tests.data.shards.servers import serving


def extent(root, index):
    """Bytes from the first member of a training sample to its last."""
    split = ShardSet(root).split("train")
    shard, position = split.shard_of(index)
    members = split.index(shard).samples[position]
    return members[-1].end - members[0].offset


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["http", "memory"])
def test_addresses_give_the_same_samples(shards, kind, workers, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(str(shards) + "/", "/remote", recursive=True)
    with serving(shards) as server:
        root = server.url if kind == "http" else "memory://remote"
        how = {"num_val": 1, "num_workers": workers}
        near, far = Matterport3DDataModule(shards, RIG, **how), Matterport3DDataModule(root, RIG, **how)
        for one, other in zip(near.train_dataloader(), far.train_dataloader(), strict=True):
            assert torch.equal(one.images, other.images)
            assert one.prompts == other.prompts
        if kind == "http":
            tars = [path for path in server.requests if path.endswith(".tar")]
            assert sum(server.requests[path] for path in tars) == 7, "pictures and captions of a sample in one range"
            assert sum(server.sent[path] for path in tars) == sum(map(extent, [shards] * 7, range(7)))


@pytest.mark.parametrize("fault", ["503", "half", "slow", "other"])
def test_a_server_that_recovers_costs_nothing(shards, fault, no_waiting):
    with serving(shards) as server:
        server.fault = lambda path, count: fault if path == "train-000000.tar" and count % 2 else None
        assert torch.equal(all_views(server.url, **QUICK), all_views(shards))
        assert server.requests["train-000000.tar"] == 4


def test_half_a_manifest_or_index_is_asked_for_again(shards, no_waiting):
    with serving(shards) as server:
        server.fault = lambda path, count: "half" if path.endswith(".json") and count == 1 else None
        assert torch.equal(all_views(server.url, **QUICK), all_views(shards))
        assert server.requests["manifest.json"] == server.requests["train-000000.json"] == 2


@pytest.mark.parametrize(("fault", "said"), [("503", "503"), ("half", "of"), ("other", "checksum"), ("slow", "")])
def test_a_server_that_does_not_is_an_error_after_the_retries(shards, fault, said, no_waiting):
    with serving(shards) as server:
        server.fault = lambda path, count: fault if path == "train-000001.tar" else None
        panoramas = open_panoramas(server.url, "train", settings=ShardSettings(retries=1, timeout=0.5))
        views(panoramas, 0)
        with pytest.raises(OSError, match=rf"scene2_pano2: .*train-000001\.tar cannot be read: .*{said}.*2 attempts"):
            views(panoramas, 2)
        assert server.requests["train-000001.tar"] == 2


@pytest.mark.parametrize("read_ahead", ["0", "4KiB"])
def test_a_server_without_ranges_is_no_damage(shards, tmp_path, monkeypatch, read_ahead, no_waiting):
    """Each request costs a whole shard, so that none is repeated."""
    monkeypatch.setattr(RangeCache, "unit", 4096)
    settings = {"cache_dir": str(tmp_path), "read_ahead": read_ahead}
    with serving(shards) as server:
        server.fault = lambda path, count: "no ranges"
        data = Matterport3DDataModule(server.url, RIG, num_val=0, max_damaged=3, shards=settings)
        with pytest.raises(ValueError, match=rf"^{server.url} must be an address whose server sends ranges of files"):
            next(iter(data.train_dataloader()))
        assert sum(count for path, count in server.requests.items() if path.endswith(".tar")) == 1


def test_a_missing_shard_is_not_asked_for_again(copy, no_waiting):
    (copy / "train-000001.tar").unlink()
    with serving(copy) as server:
        panoramas = open_panoramas(server.url, "train", settings=ShardSettings(**QUICK))
        for root in (panoramas, open_panoramas(copy, "train")):
            with pytest.raises(FileNotFoundError, match=r"scene2_pano2: .*train-000001\.tar does not exist"):
                views(root, 2)
        assert server.requests["train-000001.tar"] == 1


# Damage


def damage(root: Path, sample: int) -> None:
    """Change one byte in the middle of a face of a training sample."""
    split = ShardSet(root).split("train")
    shard, position = split.shard_of(sample)
    member = split.index(shard).samples[position][2]
    with open(root / shard.tar, "r+b") as file:
        file.seek(member.offset + member.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 255]))


def test_damage_costs_its_sample_alone(copy):
    damage(copy, 3)
    panoramas = open_panoramas(copy, "train")
    with pytest.raises(OSError, match=r"scene3_pano3: .*train-000001.*face\d\.jpg: its checksum does not match"):
        views(panoramas, 3)
    assert views(panoramas, 2).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_around_damage_up_to_a_limit(copy, workers, caplog):
    damage(copy, 3)
    (copy / "train-000002.tar").unlink()  # samples 4 and 5
    how = {"num_val": 0, "num_workers": workers, "batch_size": 2}
    data = Matterport3DDataModule(copy, RIG, max_damaged=3, **how)
    with caplog.at_level(logging.WARNING):
        batches = [list(data.train_dataloader()) for _ in range(2)]
    ids = [name for batch in batches[0] for name in batch.sample_id]
    assert len(ids) == 8
    assert set(ids) == {f"scene{i}_pano{i}" for i in (0, 1, 2, 6, 7)}
    said = [record.message for record in caplog.records if "damaged sample" in record.message]
    assert len(said) == 3, "each once, though it was met in two passes"
    assert all(any(f"scene{i}_" in text for text in said) for i in (3, 4, 5))
    with pytest.raises(ValueError, match=r"max_damaged.*got 2, and 3 are damaged"):
        list(Matterport3DDataModule(copy, RIG, max_damaged=2, **how).train_dataloader())
    with pytest.raises(OSError, match=r"does not exist|checksum"):
        list(Matterport3DDataModule(copy, RIG, **how).train_dataloader())


def test_what_takes_the_place_of_damage_depends_on_the_sample_alone(copy):
    damage(copy, 3)

    def seen(**how):
        data = Matterport3DDataModule(copy, RIG, num_val=0, max_damaged=1, **how)
        return [
            (i, float(x.sum()))
            for batch in data.train_dataloader()
            for i, x in zip(batch.sample_id, batch.images, strict=False)
        ]

    assert seen() == seen(batch_size=4, num_workers=2)


def test_damage_in_evaluation_is_an_error(copy):
    split = ShardSet(copy).split("test")
    (copy / split.shards[0].tar).unlink()
    data = Matterport3DDataModule(copy, RIG, num_val=0, max_damaged=5)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(data.test_dataloader())


@pytest.mark.parametrize("left", ["train-000000.tar", "train-000000.*"])
def test_a_folder_whose_writing_was_stopped_is_to_be_finished(copy, capsys, left):
    for path in {*copy.iterdir()} - {*copy.glob(left)}:
        path.unlink()
    remedy = r"must hold shards; manifest\.json does not exist\. Finish `mvdiff data shard`"
    for data in (Matterport3DDataModule(copy, RIG), RecordingDataModule(copy)):
        with pytest.raises(FileNotFoundError, match=remedy):
            data.setup("fit")
    assert main(["data", "check", str(copy)]) == 1
    assert "Finish `mvdiff data shard`" in capsys.readouterr().err


def test_check_names_all_damage(copy, capsys):
    assert main(["data", "check", str(copy)]) == 0
    assert "no problems" in capsys.readouterr().out
    damage(copy, 3)
    (copy / "train-000002.tar").unlink()
    (copy / "train-000003.json").write_text("{}")
    tar = copy / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[10] ^= 1
    tar.write_bytes(content)
    assert main(["data", "check", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "damaged member: " in out
    assert "sample scene3_pano3" in out
    for kind in ("missing shard", "damaged index", "damaged headers"):
        assert f"{kind}: {copy}" in out
    assert "4 problems" in out
    assert "samples lost: 5 in train" in out


def test_check_reads_an_address(copy, capsys, no_waiting):
    damage(copy, 0)
    with serving(copy) as server:
        assert main(["data", "check", server.url]) == 1
    assert "sample scene0_pano0" in capsys.readouterr().out


def test_a_truncated_shard_is_named(copy, capsys):
    tar = copy / "train-000001.tar"
    split = ShardSet(copy).split("train")
    tar.write_bytes(tar.read_bytes()[: split.index(split.shards[1]).samples[1][-1].offset + 10])
    assert main(["data", "check", str(copy)]) == 1
    assert f"unreadable shard: {tar}" in capsys.readouterr().out
    with pytest.raises(OSError, match="of"):
        views(open_panoramas(copy, "train"), 3)
    assert views(open_panoramas(copy, "train"), 2).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("kind", ["folder", "http", "memory"])
def test_bytes_behind_the_end_of_a_shard_are_named(copy, kind, capsys):
    with open(copy / "train-000001.tar", "ab") as file:
        file.write(bytes(700))
    with serving(copy) as server:
        root = {"folder": str(copy), "http": server.url, "memory": f"memory://longer/{copy.name}"}[kind]
        if kind == "memory":
            fsspec.filesystem("memory").put(f"{copy}/", f"/longer/{copy.name}", recursive=True)
        assert main(["data", "check", root]) == 1
    said = capsys.readouterr().out
    assert f"extra bytes: {root}/train-000001.tar (700 behind" in said
    assert "1 problem: 1 x extra bytes\n" in said


def test_readers_travel_to_other_processes(shards):
    panoramas = open_panoramas(shards, "train")
    views(panoramas, 0)
    assert torch.equal(views(pickle.loads(pickle.dumps(panoramas)), 1), views(panoramas, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout"),
        ({"cache_size": "much"}, "cache_size"),
        ({"read_ahead": "64MB"}, "cache_dir must be a folder when read_ahead is 64MB"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        ShardSettings(**settings)


def test_unknown_addresses_are_named():
    with pytest.raises(ValueError, match="nowhere://data"):
        ShardSet("nowhere://data")
