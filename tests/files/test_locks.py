"""A lock between two processes, which ends with the one that holds it."""

import os
import signal

import pytest

from mvdiff.files.locks import fcntl, locked

pytestmark = pytest.mark.skipif(fcntl is None, reason="no locks on this system")


def test_another_process_has_it_until_it_is_killed(tmp_path):
    path = tmp_path / "new" / ".lock"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locked(path) as is_free:
                os.write(writing, b"1" if is_free else b"0")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 1) == b"1"
        with locked(path) as is_free:
            assert not is_free
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    with locked(path, wait=True) as is_free:
        assert is_free
    with locked(path) as is_free:
        assert is_free
