"""All-view attention: every token attends to every token of every view, its own included, whatever the cameras see.

Later papers join the views' self-attention in this way instead of looking for correspondences (MVDream, CAT3D).

Axes: B batch, V views, T tokens (h * w cells), C channels, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.panorama import pixel_directions
from mvdiff.models.attention.base import Level, shared_cameras
from mvdiff.models.attention.transformer import TransformerAttention

RAY_WAVELENGTHS = (0.2, 4.0)
"""Shortest and longest wavelength of the encoding of rays, in coordinates of unit vectors. The sine of the longest is
monotone, hence unambiguous, over [-1, 1]; the shortest is two cells of a 90-degree view of 16 cells."""


@dataclass(frozen=True, eq=False)
class AllTokens:
    """All tokens of one resolution, shared by all samples.

    Attributes:
        height: Rows of cells.
        width: Columns of cells.
        num_views: Number of views per sample.
        rays: [V, T, 3] float32 unit world directions of the cells' centres; None: not encoded.
    """

    height: int
    width: int
    num_views: int
    rays: Tensor | None = None
    batch_size: ClassVar[None] = None

    def to(self, device: torch.device | str) -> AllTokens:
        """Return a copy on `device`."""
        return self if self.rays is None else replace(self, rays=self.rays.to(device))

    def repeat(self, times: int) -> AllTokens:
        """Return the taps themselves."""
        return self


class AllViewAttention(TransformerAttention):
    """Attend from each token to all tokens of all valid views of the sample.

    For token s, over all tokens u of all views::

        q = Wq LN(F(s) + gamma(s))          x = LN(F(u) + gamma(u))
        M = sum softmax(q . Wk x / sqrt(D)) Wv x
        h = F(s) + Wo M                     out = h + FF(LN(h))

    gamma is zero, or with `rays` a fixed encoding of the direction in which a cell looks. The layers are those of
    `CorrespondenceAwareAttention`, so both have equally many parameters. Under `neighbour_batch` all keys are the other
    sample's.

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        head_dim: Channels per head.
        rays: Encode the world directions of cells, without parameters; only for views that share a centre.

    Raises:
        ValueError: A setting is out of range.
    """

    taps_type: ClassVar[type] = AllTokens

    def __init__(self, channels: int, *, head_dim: int = 32, rays: bool = False) -> None:
        super().__init__(channels, head_dim)
        self.rays = rays

    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[AllTokens]:
        """Describe the tokens of each level, with their rays if they are encoded.

        Raises:
            ValueError: `rays` is set for views with depth, or the samples have different cameras.
        """
        if not self.rays:
            return [AllTokens(level.height, level.width, batch.num_views) for level in levels]
        if batch.depths is not None:
            self.check_depth()
        K, R = shared_cameras(batch)
        return [
            AllTokens(level.height, level.width, len(K), cell_directions(K, R, level).flatten(1, 2)) for level in levels
        ]

    def check_depth(self) -> None:
        """Raise ValueError if `rays` is set: a direction does not say where a view with depth stands."""
        if self.rays:
            raise ValueError("rays must be false for frames with depth; got true.")

    def attend(
        self, tokens: Tensor, taps: AllTokens, view_valid: Tensor | None, neighbour_batch: Tensor | None, views: int
    ) -> Tensor:
        """Return the update Wo M [B, V, T, C], zero for samples without a valid view; see `ViewAttention.attend`."""
        if self.rays != (taps.rays is not None):
            raise ValueError(f"taps must have rays only if the attention encodes them (rays: {self.rays}).")
        own = tokens if taps.rays is None else tokens + encode_rays(taps.rays, self.channels).to(tokens.dtype)
        own = self.norm1(own)
        lent = own if neighbour_batch is None else own[neighbour_batch]
        key, value = (self._in_heads(project(lent)) for project in (self.to_k, self.to_v))
        mask, any_valid = self._mask(view_valid, neighbour_batch, taps.height * taps.width)
        parts = []
        for some in own.split(views, dim=1):
            query = self._in_heads(self.to_q(some))
            mean = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            parts.append(self.to_out(mean.transpose(1, 2).reshape(some.shape)))
        update = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return update if any_valid is None else update * any_valid

    def _in_heads(self, tokens: Tensor) -> Tensor:
        """Reorder [B, V', T, C] to [B, H, V' * T, D]."""
        return tokens.flatten(1, 2).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    @staticmethod
    def _mask(
        view_valid: Tensor | None, neighbour_batch: Tensor | None, num_tokens: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return which keys [B, 1, 1, V * T] are attended to, and which samples [B, 1, 1, 1] have any.

        A sample without keys attends to all of them, so that nothing is NaN; the caller drops its update.
        """
        if view_valid is None:
            return None, None
        valid = view_valid if neighbour_batch is None else view_valid[neighbour_batch]
        any_valid = valid.any(dim=1, keepdim=True)
        mask = (valid | ~any_valid).repeat_interleave(num_tokens, dim=1)
        return mask[:, None, None], any_valid[..., None, None]


def cell_directions(K: Tensor, R: Tensor, level: Level) -> Tensor:
    """Return the unit world directions [V, h, w, 3] float32 of the centres of a level's cells.

    Args:
        K: [V, 3, 3] intrinsics in image pixels.
        R: [V, 3, 3] world-from-camera.
        level: Resolution.
    """
    K = resize_intrinsics(K, 1 / level.stride, 1 / level.stride)
    return pixel_directions(K, R, level.height, level.width).float()


def encode_rays(rays: Tensor, channels: int) -> Tensor:
    """Encode directions by sines and cosines: `[sin x | sin y | sin z | cos x | cos y | cos z | 0]`.

    Args:
        rays: [..., 3] unit vectors.
        channels: Size of the encoding; what does not divide by 6 is zero.

    Returns:
        [..., channels] float32 in [-1, 1].
    """
    shortest, longest = RAY_WAVELENGTHS
    exponents = torch.linspace(0.0, 1.0, channels // 6, device=rays.device, dtype=torch.float32)
    frequencies = (2.0 * math.pi / longest) * (longest / shortest) ** exponents
    angles = (rays.float().unsqueeze(-1) * frequencies).flatten(-2)
    encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return F.pad(encoded, (0, channels - encoded.shape[-1]))
