"""Shards at addresses: ranges, retries, the cache on disk, and what damage costs."""

import errno
import logging
import multiprocessing
import os
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.cache import RangeCache
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.reading import ShardSet
from mvdiff.data.shards.writing import write_shards
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import ShardSettings
from tests.data.folders import write_matterport3d
from tests.data.shards.servers import serving

RIG = RingRig(num_views=4, height=8, width=8)
QUICK = {"retries": 2, "timeout": 1.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_shards(image_content(write_matterport3d(root / "files", num_train=8, num_test=2)), root / "shards", 30_000)
    return root / "shards"


@pytest.fixture
def copy(shards, tmp_path):
    """A copy to damage: 4 shards of 2 training samples each."""
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("mvdiff.data.shards.store._FIRST_WAIT", 0.001)


def views(panoramas, index):
    K, R = RIG.cameras()
    return panoramas.views(index, K, R, RIG.height, RIG.width)


def extent(root, index):
    """Bytes from the first member of a training sample to its last."""
    split = ShardSet(root).split("train")
    shard, position = split.shard_of(index)
    members = split.index(shard).samples[position]
    return members[-1].end - members[0].offset


def all_views(root, **settings):
    panoramas = open_panoramas(root, "train", settings=ShardSettings(**settings))
    return torch.stack([views(panoramas, index) for index in range(len(panoramas))])


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


@pytest.mark.parametrize(
    ("fault", "said"), [("503", "503"), ("half", "of"), ("other", "checksum"), ("no ranges", ""), ("slow", "")]
)
def test_a_server_that_does_not_is_an_error_after_the_retries(shards, fault, said, no_waiting):
    with serving(shards) as server:
        server.fault = lambda path, count: fault if path == "train-000001.tar" else None
        panoramas = open_panoramas(server.url, "train", settings=ShardSettings(retries=1, timeout=0.5))
        views(panoramas, 0)
        with pytest.raises(OSError, match=rf"scene2_pano2: .*train-000001\.tar cannot be read: .*{said}.*2 attempts"):
            views(panoramas, 2)
        assert server.requests["train-000001.tar"] == 2


def test_a_missing_shard_is_not_asked_for_again(copy, no_waiting):
    (copy / "train-000001.tar").unlink()
    with serving(copy) as server:
        panoramas = open_panoramas(server.url, "train", settings=ShardSettings(**QUICK))
        for root in (panoramas, open_panoramas(copy, "train")):
            with pytest.raises(FileNotFoundError, match=r"scene2_pano2: .*train-000001\.tar does not exist"):
                views(root, 2)
        assert server.requests["train-000001.tar"] == 1


# The cache


def test_a_second_epoch_is_read_from_the_cache(shards, tmp_path):
    settings = {"cache_dir": str(tmp_path), **QUICK}
    with serving(shards) as server:
        first = all_views(server.url, **settings)
        asked = sum(count for path, count in server.requests.items() if path.endswith(".tar"))
        assert torch.equal(all_views(server.url, **settings), first)
        assert sum(count for path, count in server.requests.items() if path.endswith(".tar")) == asked == 8
    assert torch.equal(first, all_views(shards))


@pytest.mark.parametrize(("piece", "each"), [("1MB", 1), ("10kB", 3)])
def test_pieces_are_fetched_once_in_any_order(shards, tmp_path, piece, each):
    """Shards as a whole, or in three pieces, one of which two samples share."""
    tars = [shards / f"train-00000{number}.tar" for number in range(4)]
    assert all(20_000 < tar.stat().st_size <= 40_000 for tar in tars)
    with serving(shards) as server:
        panoramas = open_panoramas(
            server.url, "train", settings=ShardSettings(cache_dir=str(tmp_path), read_ahead=piece)
        )
        for index in (1, 0, 6, 3, 2, 7, 4, 5):
            assert torch.equal(views(panoramas, index), views(open_panoramas(shards, "train"), index))
        assert all(server.requests[tar.name] <= each for tar in tars)
        if each == 1:
            assert all(server.sent[tar.name] == tar.stat().st_size for tar in tars)


def test_a_cache_that_was_torn_or_damaged_is_a_miss(shards, tmp_path):
    with serving(shards) as server:
        settings = {"cache_dir": str(tmp_path), **QUICK}
        first = all_views(server.url, **settings)
        (kept,) = tmp_path.glob("*/train-000002.tar")
        content = bytearray(kept.read_bytes())
        content[600:2000] = bytes(1400)
        kept.write_bytes(content)
        asked = server.requests["train-000002.tar"]
        assert torch.equal(all_views(server.url, **settings), first)
        assert server.requests["train-000002.tar"] == asked + 1
        kept.write_bytes(content[:100])
        assert torch.equal(all_views(server.url, **settings), first)


def test_the_cache_keeps_to_its_size(tmp_path):
    cache = RangeCache(tmp_path, 64 << 10)
    for number in range(10):
        cache.write(f"set/{number}.tar", 0, os.urandom(16 << 10), 16 << 10)
        os.utime(tmp_path / f"set/{number}.tar", (number, number))
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*.tar")) <= (64 << 10) + (16 << 10)
    assert cache.read("set/9.tar", 0, 10) is not None
    assert cache.read("set/0.tar", 0, 10) is None
    cache.write("set/large.tar", 0, b"x", 65 << 10)
    assert not (tmp_path / "set/large.tar").exists()


def test_a_full_disk_is_said_once_and_training_goes_on(shards, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with serving(shards) as server:
        assert torch.equal(all_views(server.url, cache_dir=str(tmp_path)), all_views(shards))
    assert [record.levelname for record in caplog.records if "No space left" in record.message] == ["WARNING"]


def test_readers_share_a_cache(shards, tmp_path):
    """Several readers at once, with so small a cache that each removes what the others wrote."""
    with serving(shards) as server:
        settings = {"cache_dir": str(tmp_path), "cache_size": "60kB"}
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: all_views(server.url, **settings), range(8)))
    assert all(torch.equal(result, all_views(shards)) for result in results)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and kill")
def test_jobs_share_a_cache_and_may_be_killed(shards, tmp_path):
    """Two processes read at once, one of which is killed in the middle of a write, and a third goes on."""
    expected = all_views(shards)
    with serving(shards) as server:
        how = {"cache_dir": str(tmp_path), "cache_size": "60kB"}

        def job(killed: bool) -> None:
            if killed:
                os.pwrite = partial(half_a_write, os.pwrite, [3])
            for _ in range(2):
                assert torch.equal(all_views(server.url, **how), expected)

        assert sorted(ended([partial(job, True), partial(job, False)])) == [-signal.SIGKILL, 0]
        assert ended([partial(job, False)]) == [0]


def half_a_write(pwrite, left, descriptor, content, start):
    """Write half of the content and kill the process, at the last of some calls."""
    left[0] -= 1
    if not left[0]:
        pwrite(descriptor, content[: len(content) // 2], start)
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(descriptor, content, start)


def ended(jobs) -> list[int]:
    """Run functions at once in processes of their own; return their exit statuses."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


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


def test_readers_travel_to_other_processes(shards):
    panoramas = open_panoramas(shards, "train")
    views(panoramas, 0)
    assert torch.equal(views(pickle.loads(pickle.dumps(panoramas)), 1), views(panoramas, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"retries": -1}, "retries"), ({"timeout": 0}, "timeout"), ({"cache_size": "much"}, "cache_size")],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        ShardSettings(**settings)


def test_unknown_addresses_are_named():
    with pytest.raises(ValueError, match="nowhere://data"):
        ShardSet("nowhere://data")
