"""The folder `outside` plays a user's own: on Python's path, unknown to the package."""

from pathlib import Path

import pytest

from mvdiff import class_paths

OUTSIDE = Path(__file__).parent / "outside"


@pytest.fixture(scope="session", autouse=True)
def outside():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OUTSIDE)
        yield


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    """Start each test as a process starts: no file may name a class of these modules."""
    monkeypatch.setattr(class_paths, "_plugins", set())
