"""Distances of `realnet` between two halves of real panoramas, one of them blurred or with noise.

    python benchmarks/realnet.py --data "$MVDIFF_TEST_DATA/data/mp3d_skybox" --size 224

The panoramas of train and then test, in the order of the lists: even positions are the reference, odd ones are
scored. 8 views of each, 90 degrees wide, cut at --size.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.metrics.kid import kernel_distance
from mvdiff.eval.realnet import realnet_extractor
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import to_uint8

SIGMAS = (1, 2, 4, 8)
NOISES = (5, 15, 40)


def views(data: str, size: int) -> Iterator[Tensor]:
    """Yield the views [8, 3, H, W] uint8 of all panoramas, train then test."""
    K, R = RingRig(num_views=8, height=size, width=size).cameras()
    for split in ("train", "test"):
        source = Matterport3DPanoramas(data, split)
        for index in range(len(source)):
            yield to_uint8(source.views(index, K, R, size, size))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur uint8 images; sigma in pixels."""
    return gaussian_blur(images.float(), 2 * int(4 * sigma + 0.5) + 1, sigma).round().to(torch.uint8)


def noisy(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add noise to uint8 images; deviation in levels."""
    noise = deviation * torch.randn(images.shape, generator=generator)
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


def distances(data: str, size: int) -> Iterator[tuple[str, float, float]]:
    """Yield the name of a change, the Fréchet distance and 1000 times the kernel distance."""
    network, generator = realnet_extractor(), torch.Generator().manual_seed(0)
    parts: dict[str, list[Tensor]] = {}
    for number, images in enumerate(views(data, size)):
        changed = {"reference": images}
        if number % 2:
            changed = {"none": images}
            changed |= {f"blur, sigma {sigma}": blurred(images, sigma) for sigma in SIGMAS}
            changed |= {f"noise of {levels} levels": noisy(images, levels, generator) for levels in NOISES}
        for name, pictures in changed.items():
            parts.setdefault(name, []).append(network(pictures)[0])
    reference = torch.cat(parts.pop("reference"))
    for name, features in parts.items():
        own = torch.cat(features)
        yield name, frechet_distance(own, reference), 1000 * kernel_distance(own, reference)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=224, help="views in pixels; the network sees 224 (default: 224)")
    options = parser.parse_args()
    for name, frechet, kernel in distances(options.data, options.size):
        print(f"| {name} | {frechet:.1f} | {kernel:.1f} |")
