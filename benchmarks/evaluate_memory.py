"""Peak memory of `mvdiff evaluate` with the toy network over many samples, with and without a cache.

    python benchmarks/evaluate_memory.py --samples 300 --views 8 --size 256

Samples are noise, written once to a temporary folder. Each run is a process of its own, which reports its peak of
resident memory (Linux). Two samples show what the libraries take.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import SampleRecord, sample_folder, write_sample

RUN = """
import sys
from mvdiff.cli.main import main
main(["evaluate", *sys.argv[1:]])
with open("/proc/self/status") as file:  # getrusage also counts the parent before exec
    print("PEAK", next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def write(root: Path, samples: int, views: int, size: int) -> None:
    rng, rig = np.random.default_rng(0), RingRig(num_views=views, height=size, width=size)
    for number in range(samples):
        images = rng.integers(0, 256, (views, size, size, 3), dtype=np.uint8)
        record = SampleRecord(f"s{number:04d}", ["a room"] * views, rig=rig.to_dict())
        write_sample(sample_folder(root, record.sample_id), record, images)


def measure(words: list[str]) -> tuple[float, float]:
    """Return the peak in MiB and the seconds of a run; children, which read images, are not part of the peak."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.rsplit("PEAK", 1)[1]) / 1024, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "few", 2, options.views, options.size)
        write(root / "many", options.samples, options.views, options.size)
        metrics = ["--metrics", "toy_fid", "toy_inception_score", "sharpness", "--num_workers", "0"]
        for name in ("few", "many"):
            both = ["--generated", str(root / name), "--reference", str(root / name), *metrics]
            cache = ["--cache", str(root / f"cache of {name}")]
            for title, words in (("no cache", both), ("new cache", both + cache), ("filled cache", both + cache)):
                peak, seconds = measure(words)
                print(f"{name:<5} {title:<13} peak {peak:7.1f} MiB, {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
