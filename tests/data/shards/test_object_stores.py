"""Shards on object storage: a stand-in with the signatures of s3fs, and s3fs itself on a local server of S3."""

import fsspec
import pytest
import torch
from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK

from mvdiff.cli.main import main
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.writing import write_shards
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import ShardSettings
from tests.data.folders import write_matterport3d

RIG = RingRig(num_views=4, height=8, width=8)


class VersionedFileSystem(AsyncFileSystem):
    """Objects in memory; each method takes what that of s3fs 2026.9 takes, in its order, and nothing else."""

    protocol = "versioned"
    objects: dict[str, bytes] = {}  # noqa: RUF012

    async def _cat_file(self, path, version_id=None, start=None, end=None):
        assert version_id is None, f"version {version_id} was asked for"
        return self._object(path)[start:end]

    async def _info(self, path, bucket=None, key=None, refresh=False, version_id=None):
        return {"name": path, "size": len(self._object(path)), "type": "file"}

    async def _ls(self, path, detail=False, refresh=False, versions=False):
        names = [name for name in self.objects if name.startswith(self._strip_protocol(path) + "/")]
        return [await self._info(name) for name in names] if detail else names

    async def _pipe_file(self, path, data, chunksize=50 << 20, max_concurrency=None, mode="overwrite"):
        self.objects[self._strip_protocol(path)] = bytes(data)

    async def _put_file(
        self, lpath, rpath, callback=DEFAULT_CALLBACK, chunksize=50 << 20, max_concurrency=None, mode="overwrite"
    ):
        with open(lpath, "rb") as file:
            self.objects[self._strip_protocol(rpath)] = file.read()

    async def _rm_file(self, path):
        del self.objects[self._strip_protocol(path)]

    def _object(self, path) -> bytes:
        try:
            return self.objects[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_matterport3d(tmp_path_factory.mktemp("mp3d"), num_train=5, num_test=2)


@pytest.fixture
def versioned(monkeypatch):
    """A bucket of the stand-in: its address and options."""
    fsspec.register_implementation("versioned", VersionedFileSystem, clobber=True)
    monkeypatch.setattr(VersionedFileSystem, "objects", {})
    return "versioned://bucket/data", {}


@pytest.fixture
def s3(monkeypatch):
    """A bucket of moto's server: its address and options."""
    s3fs, server = (
        pytest.importorskip(name, reason='needs pip install s3fs "moto[s3]" flask flask-cors')
        for name in ("s3fs", "moto.server")
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    options = {"client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)  # as a user's fsspec configuration, for commands
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield "s3://bucket/data", options
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.mark.parametrize("store", ["versioned", "s3"])
def test_shards_are_written_read_checked_and_replaced(source, store, tmp_path, request, capsys):
    place, options = request.getfixturevalue(store)
    write_shards(image_content(source), tmp_path / "near", 30_000)
    how = {"shard_bytes": 30_000, "storage_options": options}
    assert write_shards(image_content(source), place, **how).written == 4
    assert write_shards(image_content(source), place, **how).kept == 4
    near = open_panoramas(tmp_path / "near", "train")
    K, R = RIG.cameras()
    for settings in ({}, {"cache_dir": str(tmp_path / "cache"), "read_ahead": "1MB"}):
        far = open_panoramas(place, "train", settings=ShardSettings(storage_options=options, retries=0, **settings))
        for index in range(5):
            views = (one.views(index, K, R, RIG.height, RIG.width) for one in (near, far))
            assert torch.equal(*views)
    assert main(["data", "check", place]) == 0
    assert "no problems" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--overwrite"):
        write_shards(image_content(source), place, 10**9, storage_options=options)
    files, root = fsspec.core.url_to_fs(place, **options)
    files.rm_file(f"{root}/manifest.json")  # as a run that was stopped
    assert write_shards(image_content(source), place, 10**9, overwrite=True, storage_options=options).written == 2
    with pytest.raises(FileNotFoundError):
        files.info(f"{root}/train-000001.tar")
