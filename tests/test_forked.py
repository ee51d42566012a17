"""Processes of a test do not outlive it, nor wait for one that has failed."""

import multiprocessing
import sys
import time
from functools import partial

import pytest

from tests.forked import end

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


@pytest.mark.parametrize("failing", [0, 1])
def test_the_first_wrong_exit_ends_the_others(failing):
    """One that waits for another takes no longer than that one, whichever is started first."""
    jobs = [partial(time.sleep, 60), partial(time.sleep, 60)]
    jobs[failing] = partial(sys.exit, 3)
    began = time.monotonic()
    statuses = end(*map(started, jobs), status=0)
    assert time.monotonic() - began < 30
    assert statuses == ([3, None] if failing == 0 else [None, 3])


def test_what_is_left_at_the_limit_is_killed():
    processes = [started(partial(time.sleep, 60)), started(partial(sys.exit, 0))]
    assert end(*processes, status=0, limit=2) == [None, 0]
    assert not any(process.is_alive() for process in processes)


def started(job):
    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process
