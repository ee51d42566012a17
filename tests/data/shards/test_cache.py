"""The cache on disk of shards at addresses: what is fetched, by whom, and what a full or damaged disk costs."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from mvdiff.data.shards.cache import RangeCache
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.reading import ShardSet
from mvdiff.settings import ShardSettings
from tests.data.shards.reader import QUICK, all_views, views
from tests.data.shards.servers import serving


def test_a_second_epoch_is_read_from_the_cache(shards, tmp_path):
    settings = {"cache_dir": str(tmp_path), **QUICK}
    with serving(shards) as server:
        first = all_views(server.url, **settings)
        asked = server.requests.total()
        assert torch.equal(all_views(server.url, **settings), first)
        assert asked == 1 + 4 + 8, "manifest, indices, samples"
        assert server.requests.total() == asked + 1, "the manifest, which names the folder of the cache"
    assert torch.equal(first, all_views(shards))


@pytest.mark.parametrize("read_ahead", ["0", "1GB"])
def test_a_folder_is_cached_too(copy, tmp_path_factory, monkeypatch, read_ahead):
    """One of a network file system; what was read once is not read there again."""
    expected = all_views(copy)
    monkeypatch.chdir(copy.parent)
    root = copy.name
    settings = {"cache_dir": str(tmp_path_factory.mktemp("cache")), "read_ahead": read_ahead, **QUICK}
    assert torch.equal(all_views(root, **settings), expected)
    for path in copy.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    assert torch.equal(all_views(root, **settings), expected)
    with pytest.raises(FileNotFoundError, match=r"train-000000\.json does not exist"):
        all_views(root)


@pytest.mark.parametrize(("setting", "piece"), [("1GB", 64 << 20), ("14kB", 16 << 10)])
def test_pieces_are_fetched_once_in_any_order(shards, tmp_path, setting, piece, monkeypatch):
    """Shards as a whole, or in pieces of 16 kB, of which samples of 13 kB share one."""
    monkeypatch.setattr(RangeCache, "unit", 4096)
    with serving(shards) as server:
        panoramas = open_panoramas(
            server.url, "train", settings=ShardSettings(cache_dir=str(tmp_path), read_ahead=setting)
        )
        for index in (1, 0, 6, 3, 2, 7, 4, 5):
            assert torch.equal(views(panoramas, index), views(open_panoramas(shards, "train"), index))
        check_fetched_once(shards, server, piece)


def check_fetched_once(shards, server, piece):
    """Check that the pieces of training shards that hold samples came in a request each."""
    split = ShardSet(shards).split("train")
    for shard in split.shards:
        number = -(-split.index(shard).samples[-1][-1].end // piece)
        assert number == (1 if piece > 10**6 else 2)
        assert server.requests[shard.tar] == number
        assert server.sent[shard.tar] == min(number * piece, shard.bytes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
@pytest.mark.parametrize("piece", [64 << 20, 16 << 10])
def test_processes_that_miss_together_fetch_each_piece_and_index_once(shards, tmp_path, piece, monkeypatch):
    monkeypatch.setattr(RangeCache, "unit", 4096)
    monkeypatch.setattr("mvdiff.data.shards.store._LARGEST_PIECE", piece)
    expected = all_views(shards)
    with serving(shards) as server:
        server.fault = lambda path, count: time.sleep(0.1)  # so that all miss before it answers

        def job() -> None:
            assert torch.equal(all_views(server.url, cache_dir=str(tmp_path), read_ahead="1GB"), expected)

        assert ended([job] * 4) == [0] * 4
        check_fetched_once(shards, server, piece)
        assert [server.requests[f"train-00000{number}.json"] for number in range(4)] == [1] * 4
        assert server.requests["manifest.json"] == 4, "it names the folder of the cache"


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
def test_a_process_that_hangs_is_not_waited_for_longer_than_a_request(shards, tmp_path):
    held, answered = threading.Event(), threading.Event()

    def fault(path, count):
        if (path, count) == ("train-000000.tar", 1):
            held.set()
            answered.wait(60)

    how = {"cache_dir": str(tmp_path), "read_ahead": "1GB"}
    with serving(shards) as server:
        server.fault = fault
        other = multiprocessing.get_context("fork").Process(target=lambda: all_views(server.url, **how))
        other.start()
        assert held.wait(60)
        start = time.monotonic()
        assert torch.equal(all_views(server.url, timeout=0.5, **how), all_views(shards))
        assert time.monotonic() - start > 0.5
        assert other.is_alive(), "it holds the lock still"
        answered.set()
        other.join(60)
        assert other.exitcode == 0


def test_a_shard_that_ends_too_early_costs_one_sample_with_pieces_too(copy, tmp_path_factory, no_waiting):
    split = ShardSet(copy).split("train")
    tar = copy / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[: split.index(split.shards[1]).samples[1][-1].offset + 10])
    with serving(copy) as server:
        how = {"cache_dir": str(tmp_path_factory.mktemp("cache")), "read_ahead": "1MB", **QUICK}
        panoramas = open_panoramas(server.url, "train", settings=ShardSettings(**how))
        assert torch.equal(views(panoramas, 2), views(open_panoramas(copy, "train"), 2))
        with pytest.raises(OSError, match="scene3_pano3"):
            views(panoramas, 3)
        assert server.requests[tar.name] == 3 + 1 + 3, "two retries of the piece, one sample, two retries of the other"


@pytest.mark.parametrize("fault", ["503", "slow"])
def test_a_piece_is_asked_for_again_while_there_is_time(shards, tmp_path, fault, no_waiting):
    with serving(shards) as server:
        server.fault = lambda path, count: fault if path == "train-000000.tar" and count == 1 else None
        timeout = 0.5 if fault == "slow" else 60.0
        how = {"cache_dir": str(tmp_path), "read_ahead": "1MB", "timeout": timeout}
        assert torch.equal(all_views(server.url, **how), all_views(shards))
        then = {"503": 1, "slow": 2}[fault]  # the piece, or its two samples
        assert [server.requests[f"train-00000{number}.tar"] for number in range(4)] == [1 + then, 1, 1, 1]


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
    writes = []

    def full(*_):
        writes.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with serving(shards) as server:
        how = {"cache_dir": str(tmp_path), "read_ahead": "1MB"}
        assert torch.equal(all_views(server.url, **how), all_views(shards))
        assert sum(server.requests[f"train-00000{number}.tar"] for number in range(4)) == 8, "nothing is fetched ahead"
    assert [record.levelname for record in caplog.records if "No space left" in record.message] == ["WARNING"]
    assert len(writes) == 3, "it was tried twice more, and then no longer"


@pytest.mark.parametrize("failures", [2, 3])
def test_a_disk_that_was_full_is_used_again(tmp_path, failures, monkeypatch, caplog):
    """Another process takes the room that was made, once; or each time, and later there is room."""
    pwrite, left = os.pwrite, [failures]

    def full(*arguments):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr("mvdiff.data.shards.cache._PAUSE", 0.0)
    cache = RangeCache(tmp_path, 1 << 20)
    cache.write_whole("set/a.json", b"first")
    assert (cache.read("set/a.json") == b"first") == (failures == 2)
    cache.write_whole("set/a.json", b"second")
    assert cache.read("set/a.json") == b"second"
    assert len(caplog.records) == failures - 2


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 128 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_smaller_than_the_cache_holds_what_was_used_last(shards, small_disk, caplog):
    with serving(shards) as server:
        for _ in range(2):
            how = {"cache_dir": str(small_disk / "cache"), "read_ahead": "1MB"}
            assert torch.equal(all_views(server.url, **how), all_views(shards))
        assert caplog.records == []
        kept = {path.name for path in small_disk.rglob("*.tar")}
        assert "train-000003.tar" in kept
        assert "train-000000.tar" not in kept
        for path in small_disk.glob("cache/*/*"):
            path.unlink()
        with open(small_disk / "filler", "wb") as file:
            file.write(bytes(shutil.disk_usage(small_disk).free))
        asked = server.requests.total()
        assert torch.equal(all_views(server.url, **how), all_views(shards))
        assert server.requests.total() == asked + 1 + 4 + 8, "manifest, indices, and each sample by itself"
    assert [record.message for record in caplog.records] == [
        f"{small_disk / 'cache'} cannot be written (No space left on device); nothing is kept for 300 s."
    ]


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
