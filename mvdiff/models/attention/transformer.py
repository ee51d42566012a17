"""Layers that attentions across views share, so that variants differ by what a token attends to and by nothing else.

Axes: B batch, V views, T tokens (h * w cells), C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from mvdiff.models.attention.base import ViewAttention
from mvdiff.models.attention.pieces import rows_at_a_time


class TokenNorm(nn.LayerNorm):
    """LayerNorm whose weights get their gradients summed in float32 on every device.

    On a CPU, torch (2.15) sums them over all tokens in the precision of the features: with 100,000 tokens in bfloat16,
    most of the bias's gradient is lost. There, training normalises in float32 and rounds, as autocast does on a GPU.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Return normalised tokens [..., C] in their dtype; under autocast on a GPU, in float32."""
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16) or not trained:
            return super().forward(tokens)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(tokens.float(), self.normalized_shape, weight, bias, self.eps).to(tokens.dtype)


class TransformerAttention(ViewAttention):
    """Base of a residual transformer block: LayerNorm, attention, add; LayerNorm, feed-forward, add.

    The feed-forward layer is a GEGLU with expansion 4: the first half of its projection is the value, the second half
    the gate. `to_out` and the last linear layer start at zero, so a fresh block returns its input. A block has
    16 C^2 + 14 C parameters.

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        head_dim: Channels per head.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__(channels)
        if head_dim < 1:
            raise ValueError(f"head_dim must be at least 1; got {head_dim}.")
        if channels % 4 or channels % head_dim:
            raise ValueError(f"channels must be divisible by 4 and by head_dim = {head_dim}; got {channels}.")
        self.head_dim = head_dim
        self.num_heads = channels // head_dim
        self.norm1 = TokenNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        self.norm2 = TokenNorm(channels)
        self.ff = FeedForward(channels, mult=4, activation_fn="geglu")
        for linear in (self.to_out, self.ff.net[2]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Add FF(LN(h)) to the tokens [B, V', T, C]."""
        rows = tokens.flatten(0, -2)
        pieces = rows.split(rows_at_a_time(rows))
        updates = [self.ff(self.norm2(some)) for some in pieces]
        update = torch.cat(updates) if len(updates) > 1 else updates[0]
        return tokens + update.view_as(tokens)  # in the layout of tokens: a fresh block must not change even that
