import pytest

from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.writing import write_shards
from tests.data.folders import write_matterport3d


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
