"""Peak memory of `mvdiff evaluate` over many samples, with and without a cache.

    python benchmarks/evaluate_memory.py --samples 300 --views 8 --size 256
    python benchmarks/evaluate_memory.py --runs "new cache" "filled cache"

The metrics are the default ones, with the toy network in place of Inception and without CLIP. Samples are noise in
a temporary folder. Each run is a process of its own, which reports its peak of resident memory (Linux). Two
samples show what the libraries take.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mvdiff.eval.checks import DEFAULT_METRICS
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import SampleRecord, sample_folder, write_sample

RUN = """
import sys
from mvdiff.cli.main import main
if status := main(["evaluate", *sys.argv[1:]]):
    sys.exit(status)
with open("/proc/self/status") as file:  # getrusage also counts the parent before exec
    print("PEAK", next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""

NETWORKS = ("fid", "inception_score", "clip_score")  # their weights are not packaged
METRICS = ("toy_fid", "toy_inception_score", *(name for name in DEFAULT_METRICS if name not in NETWORKS))
RUNS = ("no cache", "new cache", "filled cache")


def write(root: Path, samples: int, views: int, size: int) -> None:
    rng, rig = np.random.default_rng(0), RingRig(num_views=views, height=size, width=size)
    for number in range(samples):
        images = rng.integers(0, 256, (views, size, size, 3), dtype=np.uint8)
        record = SampleRecord(f"s{number:04d}", ["a room"] * views, rig=rig.to_dict())
        write_sample(sample_folder(root, record.sample_id), record, images)


def measure(words: list[str]) -> tuple[float, float]:
    """Return the peak in MiB and the seconds of a run; children, which read images, are not part of the peak."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}mvdiff evaluate {shlex.join(words)} ended with {done.returncode}")
    return int(done.stdout.rsplit("PEAK", 1)[1]) / 1024, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="(default: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "few", 2, options.views, options.size)
        write(root / "many", options.samples, options.views, options.size)
        for name in ("few", "many"):
            both = ["--generated", str(root / name), "--reference", str(root / name)]
            both += ["--metrics", *options.metrics, "--num_workers", "0", "--strict"]  # 3: a number is missing
            cache = ["--cache", str(root / f"cache of {name}")]
            for title in options.runs:
                peak, seconds = measure(both + ([] if title == "no cache" else cache))
                print(f"{name:<5} {title:<13} peak {peak:7.1f} MiB, {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
