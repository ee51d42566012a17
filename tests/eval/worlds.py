"""Write small sample folders whose scores are known, for tests of the runner and the command."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mvdiff.eval.features import ToyFeatureNet
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.samples import SampleRecord, sample_folder, write_sample

RIG = RingRig(num_views=8, height=12, width=12)
HEADS = {"object": ["none", "sofa", "lamp"], "colour": ["none", "red", "blue"], "walls": ["white", "green"]}


def views(seed: int, rig: Rig = RIG, noise: float = 0.0) -> np.ndarray:
    """Views of a smooth world that agree where they overlap, plus noise that does not: uint8 [V, H, W, 3]."""
    K, R = rig.cameras()
    ys, xs = np.meshgrid(np.arange(rig.height), np.arange(rig.width), indexing="ij")
    rays = np.stack([xs, ys, np.ones_like(xs)], -1)
    world = np.einsum("vij,vjk,hwk->vhwi", R.numpy(), np.linalg.inv(K.numpy()), rays)
    world /= np.linalg.norm(world, axis=-1, keepdims=True)
    colours = 0.5 + 0.4 * np.sin(3 * world + seed)
    colours += noise * np.random.default_rng(seed).normal(size=colours.shape)
    return (255 * colours.clip(0, 1)).round().astype(np.uint8)


def write_samples(root: Path, num: int = 4, noise: float = 0.0, rig: Rig = RIG, **settings) -> Path:
    """Write complete samples ``s0``, ``s1``, ..."""
    for seed in range(num):
        record = SampleRecord(f"s{seed}", ["a red sofa"] * rig.num_views, rig=rig.to_dict(), settings=settings)
        write_sample(sample_folder(root, f"s{seed}"), record, views(seed, rig, noise))
    return root


def write_upstream(root: Path, num: int = 3, noise: float = 0.2) -> Path:
    """Write samples in upstream's layout: noisy generated views beside clean natural ones."""
    for seed in range(num):
        folder = root / f"scene{seed}"
        folder.mkdir(parents=True)
        for i, (image, truth) in enumerate(zip(views(seed, noise=noise), views(seed), strict=True)):
            Image.fromarray(image).save(folder / f"{i}.png")
            Image.fromarray(truth).save(folder / f"{i}_natural.png")
        (folder / "prompt.txt").write_text("a red sofa\n")
    return root


def write_judge(folder: Path) -> Path:
    """Save a random toy feature network."""
    torch.manual_seed(0)
    return ToyFeatureNet(HEADS, width=8, num_features=16).save_pretrained(folder)
