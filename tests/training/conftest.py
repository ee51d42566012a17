import pytest
import torch

from tests.training.tiny_run import tiny_config


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with a tiny base and ten tiny panoramas."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_config(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny shapes are fastest, and sums are the same everywhere, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
