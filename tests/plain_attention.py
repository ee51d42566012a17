"""The plain twin of `CorrespondenceAwareAttention`: the formula, one token and one tap at a time.

Slow and obviously right. It is the oracle of the tests, for values and for gradients, and the yardstick of
`benchmarks/multiview_forward.py`. It uses the fast module's weights and nothing else of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvdiff.geometry.correspondence import TapGeometry
from mvdiff.models.attention import CorrespondenceAwareAttention
from mvdiff.models.residual import ResidualBlock


def reference_attention(
    block: CorrespondenceAwareAttention,
    hidden_states: Tensor,
    geometry: TapGeometry,
    view_valid: Tensor | None = None,
    neighbour_batch: Tensor | None = None,
) -> Tensor:
    """Compute what `block` computes, from the paper's equation 1 (section 4).

    Args:
        block: The fast module, for its weights.
        hidden_states: [B, V, C, h, w].
        geometry: the taps as the geometry gives them, [V, N, T, P, ...].
        view_valid: [B, V] bool.
        neighbour_batch: [B] long.

    Returns:
        [B, V, C, h, w].
    """
    batch, num_views, _, height, width = hidden_states.shape
    outputs = torch.zeros_like(hidden_states)
    for b in range(batch):
        other = b if neighbour_batch is None else int(neighbour_batch[b])
        for view in range(num_views):
            for token in range(height * width):
                y, x = divmod(token, width)
                own = hidden_states[b, view, :, y, x]
                taps = []
                for n, neighbour in enumerate(geometry.neighbours[view].tolist()):
                    if neighbour < 0 or (view_valid is not None and not view_valid[other, neighbour]):
                        continue
                    for tap in torch.nonzero(geometry.visible[view, n, token]).flatten().tolist():
                        seen = bilinear(hidden_states[other, neighbour], geometry.taps_xy[view, n, token, tap])
                        taps.append(seen + encoding(block, geometry.displacement[view, n, token, tap]).to(seen))
                outputs[b, view, :, y, x] = token_update(block, own, taps)
    return outputs if block.residual is None else reference_residual(block.residual, outputs)


def reference_residual(block: ResidualBlock, hidden_states: Tensor) -> Tensor:
    """Compute what `block` computes on [B, V, C, h, w], from its definition."""
    update = reference_convolution(block.conv1.weight, F.relu(group_norm(block.norm1, hidden_states)))
    return hidden_states + reference_convolution(block.conv2.weight, F.relu(group_norm(block.norm2, update)))


def group_norm(norm: nn.GroupNorm, hidden_states: Tensor) -> Tensor:
    """Bring each group of channels of each view to mean 0 and variance 1, then scale and shift each channel."""
    groups = hidden_states.unflatten(2, (norm.num_groups, -1))
    mean = groups.mean((3, 4, 5), keepdim=True)
    variance = (groups - mean).square().mean((3, 4, 5), keepdim=True)
    normal = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(2, 3)
    return normal * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def reference_convolution(weight: Tensor, hidden_states: Tensor) -> Tensor:
    """Sum over the 3x3 displacements: each shifts the map, zeros beyond its border, and mixes its channels."""
    height, width = hidden_states.shape[-2:]
    padded = F.pad(hidden_states, (1, 1, 1, 1))
    output = torch.zeros_like(hidden_states)
    for dy in range(3):
        for dx in range(3):
            shifted = padded[..., dy : dy + height, dx : dx + width]
            output = output + torch.einsum("oi,bvihw->bvohw", weight[:, :, dy, dx], shifted)
    return output


def token_update(block: CorrespondenceAwareAttention, own: Tensor, taps: list[Tensor]) -> Tensor:
    """Return one token [C] after the block, given its encoded visible taps."""
    hidden = own
    if taps and block.attention_enabled:
        query = block.to_q(block.norm1(own + encoding(block, torch.zeros(2)).to(own)))
        keys = torch.stack([block.to_k(block.norm1(tap)) for tap in taps])
        values = torch.stack([block.to_v(block.norm1(tap)) for tap in taps])
        heads = []
        for head in range(block.num_heads):
            part = slice(head * block.head_dim, (head + 1) * block.head_dim)
            weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(block.head_dim), dim=0)
            heads.append(weights @ values[:, part])
        hidden = hidden + block.to_out(torch.cat(heads))
    value, gate = block.ff.net[0].proj(block.norm2(hidden)).chunk(2)
    return hidden + block.ff.net[2](value * F.gelu(gate))


def bilinear(feature_map: Tensor, xy: Tensor) -> Tensor:
    """Interpolate a feature map [C, h, w] at the cell coordinates (x, y); beyond the border, take the border."""
    _, height, width = feature_map.shape
    x, y = float(xy[0]), float(xy[1])
    left, top = math.floor(x), math.floor(y)
    total = torch.zeros_like(feature_map[:, 0, 0])
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            cell = feature_map[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            total = total + weight * cell
    return total


def encoding(block: CorrespondenceAwareAttention, displacement: Tensor) -> Tensor:
    """Encode a displacement (dx, dy) in cells as [sin x | sin y | cos x | cos y]; zeros without wavelengths."""
    if block.wavelengths is None:
        return torch.zeros(block.channels)
    shortest, longest = block.wavelengths
    bands = block.channels // 4
    waves = [longest * (shortest / longest) ** (k / max(bands - 1, 1)) for k in range(bands)]
    angles = [2 * math.pi * float(d) / wave for d in displacement for wave in waves]
    return torch.tensor([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
