"""Scoring keeps rows of numbers, and its memory does not grow by the tensors that a sample needs for a moment."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvdiff.eval.overlap import overlap_psnr
from mvdiff.eval.runner import evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.geometry.cameras import RingRig

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("toy_fid", "toy_inception_score", "sharpness")


class Noise:
    """Samples of 8 views of 256 pixels, made when they are read; prints the memory of the process before each."""

    def __iter__(self):
        eye = torch.eye(3).expand(8, 3, 3)
        for number in range(40):
            print("MEMORY", resident())
            images = torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8)
            yield ScoredSample(f"s{number}", images, eye, eye, ["a room"] * 8)

    def describe(self):
        return {"path": "noise", "num_samples": 40}


def resident() -> int:
    """Resident memory of this process that no file backs, in KiB, without what the allocator keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))


def peak_of_overlaps() -> int:
    """Most memory, in KiB beyond what is held, that comparing 8 views of 256 pixels at 1024 takes."""
    K, R = RingRig(num_views=8, height=256, width=256).cameras()
    images = torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8)
    held = resident()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    overlap_psnr(images, K, R)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak, files = (
        next(int(line.split()[1]) for line in lines if line.startswith(name)) for name in ("VmHWM", "RssFile")
    )
    return peak - files - held


@pytest.fixture(scope="module")
def printed():
    """Lines of a process whose heap no other test has used."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.eval.test_memory"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_memory_does_not_grow_with_samples(printed):
    values = [int(line.split()[1]) for line in printed if line.startswith("MEMORY")]
    assert values[-1] - values[9] < 4 * 1024, values  # 29 samples later; the views of one have 1.5 MiB


def test_overlaps_hold_two_resized_views_and_the_positions_of_one_pair(printed):
    """Eight views at 1024 are 96 MiB, the positions of eight pairs 90, and three channels of a view in float64 24."""
    (peak,) = [int(line.split()[1]) for line in printed if line.startswith("OVERLAPS")]
    assert peak < 96 * 1024  # measured: 73


if __name__ == "__main__":
    evaluate(Noise(), None, METRICS)
    print("OVERLAPS", peak_of_overlaps())
