"""Show what overlap PSNR and the numbers beside it say of real panoramas, changed in known ways.

    python benchmarks/overlap_limits.py --data "$MVDIFF_TEST_DATA/data/mp3d_skybox" --out runs/overlap_limits

Writes the results of each change as `<change>.json` and prints a table of all. The exit status is 1 if a number is
missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.samples import to_uint8

METRICS = ("overlap_psnr", "overlap_chance", "overlap_zncc", "border_ratio", "sharpness")
SHOWN = (
    "overlap_psnr_mean_of_pairs",
    "overlap_chance",
    "overlap_zncc",
    "overlap_chance_zncc",
    "border_ratio",
    "sharpness_gradient_energy",
)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Scale the contrast of uint8 images about grey."""
    return ((images.float() - 127.5) * factor + 127.5).round().to(torch.uint8)


def noise(images: Tensor, levels: float, seed: int) -> Tensor:
    """Add noise of a standard deviation in grey levels to uint8 images."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.float() + levels * drawn).round().clamp(0, 255).to(torch.uint8)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur uint8 images by a Gaussian of `sigma` pixels."""
    return gaussian_blur(images, 8 * int(sigma) + 1, sigma)


CHANGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "as they are": lambda images, seed: images,
    "every other view turned by 0.5 degrees": lambda images, seed: images,
    "contrast x 0.1": lambda images, seed: contrast(images, 0.1),
    "blur, sigma 1": lambda images, seed: blur(images, 1),
    "blur, sigma 4": lambda images, seed: blur(images, 4),
    "noise, 5 levels": lambda images, seed: noise(images, 5, seed),
    "noise, 15 levels": lambda images, seed: noise(images, 15, seed),
}


class Panoramas:
    """Views of the panoramas of both splits on the paper's ring, changed; a source of samples."""

    def __init__(self, data: Path, change: str, size: int, every: int) -> None:
        self.change, self.every = change, every
        self.splits = [Matterport3DPanoramas(data, split) for split in ("train", "test")]
        self.rig = RingRig(num_views=8, fov_deg=90.0, height=size, width=size)
        turn = 0.5 if change.startswith("every other view turned") else 0.0
        yaws = [(45.0 * view + turn * (view % 2), 0.0, 90.0) for view in range(8)]
        self.seen = Rig(yaws, height=size, width=size)

    def __iter__(self) -> Iterator[ScoredSample]:
        K, R = self.rig.cameras()
        seen = self.seen.cameras()
        panoramas = [(split, index) for split in self.splits for index in range(len(split))]
        for seed, (split, index) in enumerate(panoramas[:: self.every]):
            views = to_uint8(split.views(index, *seen, self.rig.height, self.rig.width))
            yield ScoredSample(split.sample_id(index), CHANGES[self.change](views, seed), K, R, [""] * 8)

    def describe(self) -> dict[str, Any]:
        """Name the change."""
        splits = sum(map(len, self.splits))
        return {"path": self.change, "num_samples": len(range(0, splits, self.every))}


def main() -> int:
    """Score every change; return 1 if a number is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the Matterport3D layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--size", type=int, default=512, help="views in pixels")
    parser.add_argument("--overlap_size", type=int, default=1024, help="compared images in pixels")
    parser.add_argument("--every", type=int, default=1, help="take every n-th panorama")
    options = parser.parse_args()
    settings = EvaluationSettings(overlap_size=options.overlap_size)
    print(f"| | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    complete = True
    for change in CHANGES:
        path = options.out / f"{change.replace(' ', '_').replace(',', '')}.json"
        if not path.is_file():
            source = Panoramas(options.data, change, options.size, options.every)
            write_results(evaluate(source, None, METRICS, settings), path)
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        print(f"| {change} | {' | '.join(_cell(metrics[name]) for name in SHOWN)} |", flush=True)
        complete &= all("value" in metrics[name] for name in SHOWN)
    return int(not complete)


def _cell(entry: dict[str, Any]) -> str:
    if "value" not in entry:
        return "missing"
    ends = entry.get("interval")
    return f"{entry['value']:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "")


if __name__ == "__main__":
    sys.exit(main())
