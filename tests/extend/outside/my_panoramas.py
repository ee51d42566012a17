"""Panoramas in one file a split: train.npz and test.npz with arrays `images` [N, H, 2H, 3] uint8 and `captions` [N]."""

from pathlib import Path

import numpy as np
import torch

from mvdiff.geometry.panorama import perspective_from_equirectangular


class MyPanoramas:
    """A `mvdiff.data.panoramas.PanoramaSource`."""

    def __init__(self, root, split, on_broken="error", *, article="a"):
        self.file = Path(root) / f"{split}.npz"
        self.arrays = np.load(self.file)  # FileNotFoundError names the file
        self.article = article

    def __len__(self):
        return len(self.arrays["images"])

    def sample_id(self, index):
        return f"{self.file.stem}_{index:04d}"

    def views(self, index, K, R, height, width):
        image = torch.from_numpy(self.arrays["images"][index]).movedim(-1, 0) / 127.5 - 1
        return perspective_from_equirectangular(image, K, R, height, width)

    def captions(self, index):
        return {0: f"{self.article} {self.arrays['captions'][index]}"}
