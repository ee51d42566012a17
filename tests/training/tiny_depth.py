"""A tiny depth task in memory: frames of painted walls with exact depth, and a base that takes the depth."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from mvdiff.batch import MultiViewBatch
from mvdiff.data.sampler import KeyedSampler
from mvdiff.geometry import cell_centres, unproject
from mvdiff.models.backbone import load_backbone
from mvdiff.models.conditioning import add_depth_input
from tests.models.test_depth_geometry import HEIGHT, WIDTH, wall
from tests.tiny import tiny_base

COLOURS = ("red", "green", "blue")


def tiny_depth_base(folder: Path) -> Path:
    """Write a tiny base whose UNet takes the depth channel, with weights that use it."""
    backbone = load_backbone(tiny_base(folder / "plain"))
    add_depth_input(backbone.unet)
    with torch.no_grad():
        backbone.unet.conv_in.weight[:, -1].normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    backbone.save_pretrained(folder / "base")
    return folder / "base"


class WallFrames(Dataset):
    """Sequences along painted walls, taken as `mode` says; keys are (epoch, index) as `KeyedSampler` gives them.

    Args:
        size: Number of walls.
        mode: "keyframes" (3 frames, none given), "interpolation" (4 frames, the outer ones given), "mixed" (both in
            turn) or "frames" (one frame).
        first: Index of the first wall.
    """

    def __init__(self, size: int, mode: str = "mixed", first: int = 0) -> None:
        self.size, self.mode, self.first = size, mode, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        index += self.first
        mode = ("keyframes", "interpolation")[index % 2] if self.mode == "mixed" else self.mode
        num_views = {"keyframes": 3, "interpolation": 4, "frames": 1}[mode]
        K, R, t, depths = (value[0] for value in wall(num_views, step=0.3, slope=0.1 * (index % 5) - 0.2, seed=index))
        centres = cell_centres(HEIGHT, WIDTH, 1).expand(num_views, -1, -1, -1)
        points = unproject(centres, depths, K[:, None, None], R[:, None, None], t[:, None, None])
        waves = torch.stack([torch.sin(3 * points[..., 0] + index), torch.cos(4 * points[..., 1])], dim=-1)
        images = -torch.ones(num_views, 3, HEIGHT, WIDTH)
        images[:, index % 3] = waves.mean(-1).float()
        known = torch.zeros(num_views, 1, HEIGHT, WIDTH)
        if mode == "interpolation":
            known[[0, -1]] = 1
        return {
            "images": images,
            "K": K,
            "R": R,
            "t": t,
            "depths": depths,
            "known": known,
            "prompts": [f"a {COLOURS[index % 3]} wall"] * num_views,
            "sample_id": f"wall{index}",
            "sample_index": index,
            "epoch": epoch,
        }


class WallData(LightningDataModule):
    """Eight walls to train on and four to validate on, two in a batch."""

    height, width = HEIGHT, WIDTH

    def __init__(self, mode: str = "mixed") -> None:
        super().__init__()
        self.mode = mode

    def train_dataloader(self) -> DataLoader:
        return self._loader(WallFrames(8, self.mode), shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(WallFrames(4, self.mode, first=100), shuffle=False)

    def _loader(self, frames: WallFrames, shuffle: bool) -> DataLoader:
        sampler = KeyedSampler(len(frames), 0, shuffle=shuffle, batch_size=2)
        return DataLoader(frames, batch_size=2, sampler=sampler, collate_fn=MultiViewBatch.collate)


def wall_batch(*indices: int, mode: str = "mixed", epoch: int = 0) -> MultiViewBatch:
    """Collate walls by index."""
    return MultiViewBatch.collate([WallFrames(0, mode)[epoch, index] for index in indices])
