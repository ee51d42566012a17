"""The residual block that follows each attention of the paper's depth model."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Add two times (GroupNorm, ReLU, 3x3 convolution without bias) to the input; the last convolution starts at zero.

    Args:
        channels: Number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map feature maps [N, C, h, w] to the same shape."""
        update = self.conv1(F.relu(self.norm1(hidden_states)))
        return hidden_states + self.conv2(F.relu(self.norm2(update)))
