import pytest

from tests.training.tiny_run import tiny_config


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with a tiny base and ten tiny panoramas."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_config(folder)
    return folder
