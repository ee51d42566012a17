"""Small views of the panoramas of shards."""

from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.shards.opening import open_panoramas
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import ShardSettings

RIG = RingRig(num_views=4, height=8, width=8)
QUICK = {"retries": 2, "timeout": 1.0}


def views(panoramas, index: int) -> Tensor:
    """Cut the views of a panorama."""
    K, R = RIG.cameras()
    return panoramas.views(index, K, R, RIG.height, RIG.width)


def all_views(root: str | Path, **settings) -> Tensor:
    """Cut the views of all training panoramas."""
    panoramas = open_panoramas(root, "train", settings=ShardSettings(**settings))
    return torch.stack([views(panoramas, index) for index in range(len(panoramas))])
