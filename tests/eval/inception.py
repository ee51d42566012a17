"""Write a file of random Inception weights, for tests that need the architecture and not the numbers."""

from pathlib import Path

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Blank(FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict, *args, **kwargs):
        """Keep the fresh weights: the parent loads a file while it is built."""


def write_random_inception(path: Path, calibration: torch.Tensor | None = None) -> Path:
    """Save a random network's state dict where a user would put the real one.

    Args:
        path: File to write.
        calibration: uint8 images [N, 3, H, W]. Batch norms take their statistics, so that features keep the scale of a
            trained network's: with fresh statistics they vanish layer by layer, and any two images have equal ones.
    """
    torch.save({}, path)
    torch.manual_seed(0)
    net = _Blank("inception-v3-compat", ["2048"], str(path))
    if calibration is not None:
        calibrate(net, calibration)
        with torch.no_grad():
            net.fc.weight.mul_(50)  # fresh logits hardly differ, and an Inception Score of 1 says nothing
    torch.save(net.state_dict(), path)
    return path


def calibrate(net: nn.Module, images: torch.Tensor) -> None:
    """Set the statistics of all batch norms by one pass in training mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(images)
    net.eval()
