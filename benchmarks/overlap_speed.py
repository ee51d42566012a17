"""Measure the CPU seconds and memory of overlap PSNR per panorama, for cameras that are known and for new ones.

    python benchmarks/overlap_speed.py --threads 1

8 views of noise, 90 degrees wide. "New" cameras are those of a panorama whose common pixels were not yet found. Seconds
are the least of all calls, memory is the most of them, beyond what was held before.
"""

import argparse
from collections.abc import Callable

import torch
from measuring import held_memory, measure

from mvdiff.eval import overlap
from mvdiff.geometry.cameras import RingRig


def main() -> None:
    """Print a line for known and for new cameras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="views in pixels")
    parser.add_argument("--overlap_size", type=int, default=1024, help="compared images in pixels")
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    K, R = RingRig(num_views=8, height=options.size, width=options.size).cameras()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, options.size, options.size), dtype=torch.uint8, generator=generator)
    turns = iter(torch.arange(1, 2 + options.calls, dtype=torch.float64) / 100)

    def known() -> None:
        overlap.overlap_psnr(images, K, R, options.overlap_size)

    def new() -> None:
        angle = next(turns)  # of the whole ring about the x axis: no homography is one of before
        sine, cosine = angle.sin(), angle.cos()
        about_x = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        overlap.overlap_psnr(images, K, about_x.float() @ R, options.overlap_size)

    calls: dict[str, Callable[[], None]] = {"known": known, "new": new}
    known()
    held = held_memory("cpu")
    for name, call in calls.items():
        seconds, mebibytes = zip(*[measure(call, "cpu", held) for _ in range(options.calls)], strict=True)
        print(f"{name} cameras: {min(seconds):.2f} s, {max(mebibytes):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
