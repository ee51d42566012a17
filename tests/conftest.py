"""Settings of every test: offline, one thread, the same examples each time, shared real data where they are."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from mvdiff.files.paths import expanded
from tests.browser import Browser, find_chromium

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # sums round alike in every process, and two workers of pytest share two cores
torch.set_num_threads(1)  # this process, where torch has read the environment already; a fork with its threads hangs
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it: tables are as wide as without a terminal
settings.register_profile(
    "mvdiff", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mvdiff")


def pytest_configure() -> None:
    """Take Ctrl-C also in a job that a shell started in the background, where it is ignored: tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what the tests import out of every garbage collection: to look through it again takes most of its time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter collect everything at its end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Forget what earlier tests compiled: torch runs code of diffusers uncompiled after eight compilations of it."""
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real inputs: MVDIFF_TEST_DATA, by default ../shared beside the repository."""
    repository = Path(__file__).resolve().parents[1]
    folder = expanded(os.environ.get("MVDIFF_TEST_DATA") or repository.parent / "shared")
    if not (folder / "data" / "mp3d_skybox").is_dir():
        pytest.skip(f"needs the shared test data, not found in {folder}; set MVDIFF_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def reference_2023(test_data) -> Path:
    """Folder of weights, inputs and outputs of the 2023 release's code."""
    folder = test_data / "reference_2023"
    if not folder.is_dir():
        pytest.skip(f"needs the reference vectors of the 2023 release, not found in {folder}")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One headless browser window of 1200 x 900 pixels for all tests of pages."""
    if find_chromium() is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
