"""Write a file of random Inception weights, for tests that need the architecture and not the numbers."""

from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Blank(FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict, *args, **kwargs):
        """Keep the fresh weights: the parent loads a file while it is built."""


def write_random_inception(path: Path) -> Path:
    """Save a randomly initialised network's state dict where a user would put the real one."""
    torch.save({}, path)
    torch.manual_seed(0)
    net = _Blank("inception-v3-compat", ["2048"], str(path))
    torch.save(net.state_dict(), path)
    return path
