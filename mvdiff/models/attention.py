"""Correspondence-aware attention (CAA): every token attends to where the other views see the same point.

Axes: B batch, V views, T tokens (h * w cells), S slots (visible taps of a token), C channels, H heads, D head width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from mvdiff.models.geometry_cache import DEFAULT_WAVELENGTHS, PackedTaps, encode_displacement, split_views


class ResidualBlock(nn.Module):
    """GroupNorm, ReLU, 3x3 convolution without bias, twice, added to the input; the last convolution starts at zero.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        update = self.conv1(F.relu(self.norm1(hidden_states)))
        return hidden_states + self.conv2(F.relu(self.norm2(update)))


class CorrespondenceAwareAttention(nn.Module):
    """Attend from each token to its corresponding neighbourhoods in other views (the paper's section 4.2, eq. 1).

    For token s of a view, over all visible taps t* of all its neighbour views::

        q = Wq LN(F(s) + gamma(0))          x = LN(F(t*) + gamma(s* - s))
        M = sum softmax(q . Wk x / sqrt(D)) Wv x
        h = F(s) + Wo M                     out = h + FF(LN(h))

    F(t*) is interpolated bilinearly, FF is a GEGLU (x4; the projection's first half is the value, its second half the
    gate). `Wo` and the last linear layer of FF start at zero: a fresh block returns its input. A token without visible
    taps keeps F(s), whatever the bias of `Wo`; empty slots are masked, never attended to.

    Taps are not projected one by one. Since `q_H . Wk_H x = (Wk_H^T q_H) . x` and `sum a Wv_H x = Wv_H sum a x`, Wk is
    applied to the query and Wv to the attended mean: four C x C products per token, whatever the number of taps.

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        head_dim: width of a head.
        wavelengths: (shortest, longest) of the displacement encoding, in cells (see `encode_displacement`).
        residual: whether a `ResidualBlock` follows (the paper's depth model).
    """

    taps_type: ClassVar[type] = PackedTaps

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        wavelengths: tuple[float, float] = DEFAULT_WAVELENGTHS,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if channels % 4 or channels % head_dim:
            raise ValueError(
                f"channels must be divisible by 4 and by head_dim = {head_dim}; got {channels}. "
                "Choose a head_dim that divides every block's channels."
            )
        self.channels = channels
        self.head_dim = head_dim
        self.num_heads = channels // head_dim
        self.wavelengths = tuple(wavelengths)
        self.attention_enabled = True
        self.norm1 = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, mult=4, activation_fn="geglu")
        for linear in (self.to_out, self.ff.net[2]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.residual = ResidualBlock(channels) if residual else None

    def forward(
        self,
        hidden_states: Tensor,
        taps: PackedTaps,
        view_valid: Tensor | None = None,
        neighbour_batch: Tensor | None = None,
        views_per_chunk: int | None = None,
    ) -> Tensor:
        """Return `hidden_states` with what the other views say added.

        Args:
            hidden_states: [B, V, C, h, w] feature maps.
            taps: the packed taps of this resolution.
            view_valid: [B, V] bool; views that are padding are never attended to.
            neighbour_batch: [B] long, the sample whose views are the neighbours of sample b; default: b itself.
                (A control: with another sample's views, attention has nothing true to say.)
            views_per_chunk: how many views, counted over the batch, ask at a time; each attends to all others all the
                same. Less memory, but the encoding of displacements is computed anew each time. None: all at once.

        Returns:
            [B, V, C, h, w] in the dtype of `hidden_states`.

        Raises:
            ValueError: if the size or the number of views is not that of `taps`, or they are another variant's.
        """
        if not isinstance(taps, self.taps_type):
            raise ValueError(
                f"geometry must be of the adapter's variant, with {self.taps_type.__name__}; got "
                f"{type(taps).__name__}. Build MultiViewGeometry with variant=adapter.config.variant."
            )
        batch, num_views, _, height, width = hidden_states.shape
        if (num_views, height, width) != (taps.num_views, taps.height, taps.width):
            raise ValueError(
                f"hidden_states must have {taps.num_views} views of {taps.height}x{taps.width} cells as its geometry; "
                f"got {num_views} views of {height}x{width}. Build MultiViewGeometry for this rig and latent size."
            )
        if taps.batch_size not in (None, batch):
            raise ValueError(
                f"hidden_states must be of {taps.batch_size} samples as their geometry; got {batch}. Build "
                "MultiViewGeometry for these samples; for guidance, repeat it."
            )
        views = num_views if views_per_chunk is None else max(1, views_per_chunk // batch)
        tokens = hidden_states.flatten(-2).transpose(-1, -2)
        if self.attention_enabled:
            tokens = tokens + self._attend(tokens.contiguous(), taps, view_valid, neighbour_batch, views)
        outputs = [self._after_attention(some, height, width) for some in tokens.split(views, dim=1)]
        output = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return output.to(hidden_states.dtype)

    def _after_attention(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Feed forward and residual block, view by view: [B, V, T, C] -> [B, V, C, h, w]."""
        tokens = tokens + self.ff(self.norm2(tokens))
        output = tokens.transpose(-1, -2).unflatten(-1, (height, width))
        if self.residual is not None:
            output = self.residual(output.flatten(0, 1)).unflatten(0, output.shape[:2])
        return output

    def _attend(
        self, tokens: Tensor, taps: PackedTaps, view_valid: Tensor | None, neighbour_batch: Tensor | None, views: int
    ) -> Tensor:
        """Return the update [B, V, T, C] of the attention; `views` of each sample ask at a time."""
        batch, num_views, num_tokens, channels = tokens.shape
        lenders = torch.arange(batch, device=tokens.device) if neighbour_batch is None else neighbour_batch
        if not taps.parts:
            updates = [
                self._update(tokens[:, some], tokens, part, lenders.view(batch, 1, 1), view_valid)
                for some, part in split_views(taps, views)
            ]
            return torch.cat(updates, dim=1) if len(updates) > 1 else updates[0]
        own = tokens.view(-1, channels)
        parts = [
            (rows, self._update(own[rows], tokens, part, lenders[rows // (num_views * num_tokens)], view_valid))
            for rows, part in taps.split_parts(views * batch * num_tokens)
        ]
        rows, update = (torch.cat(values) for values in zip(*parts, strict=True))
        return update.new_zeros(own.shape).index_copy(0, rows, update).view(tokens.shape)

    def _update(
        self, own: Tensor, tokens: Tensor, taps: PackedTaps, lenders: Tensor, view_valid: Tensor | None
    ) -> Tensor:
        """Return what some tokens take from the views they see.

        Args:
            own: [..., C] these tokens.
            tokens: [B, V, T, C] all tokens.
            taps: of these tokens; its leading axes broadcast with those of `own`.
            lenders: [...] long, the sample that each token attends to; broadcasts likewise.
            view_valid: [B, V] bool.

        Returns:
            [..., C], zeros for tokens without visible taps.
        """
        seen = self._gather(tokens, taps, lenders)  # F(t*)
        seen = self.norm1(seen.add_(taps.encoding(self.channels, self.wavelengths, tokens.dtype)))
        visible = taps.visible.expand(seen.shape[:-1])
        if view_valid is not None:
            visible = visible & view_valid[lenders[..., None], taps.views]
        origin = encode_displacement(tokens.new_zeros(2, dtype=torch.float32), self.channels, self.wavelengths)
        return self._mix(own + origin.to(tokens.dtype), seen, visible)

    def _gather(self, tokens: Tensor, taps: PackedTaps, lenders: Tensor) -> Tensor:
        """Return the features [..., S, C] of every tap: its four corners, weighted and summed in one gather."""
        _, num_views, num_tokens, channels = tokens.shape
        cells = taps.cells + (lenders * (num_views * num_tokens))[..., None, None]
        weights = taps.weights.to(tokens.dtype).expand(cells.shape)
        return F.embedding_bag(
            cells.view(-1, 4), tokens.view(-1, channels), per_sample_weights=weights.reshape(-1, 4), mode="sum"
        ).view(*cells.shape[:-1], channels)

    def _mix(self, query: Tensor, seen: Tensor, attended: Tensor) -> Tensor:
        """Return the attention of queries [..., C], before their norm, to normalised keys [..., S, C].

        Args:
            query: [..., C].
            seen: [..., S, C], keys and values before their projections.
            attended: [..., S] bool, which keys there are.

        Returns:
            [..., C], zeros where there is no key.
        """
        heads, width, channels = self.num_heads, self.head_dim, self.channels
        lead = query.shape
        query = self.to_q(self.norm1(query)).view(-1, heads, width).transpose(0, 1)
        query = torch.bmm(query, self.to_k.weight.view(heads, width, channels)).transpose(0, 1)
        seen = seen.flatten(0, -3)
        attended = attended.flatten(0, -2).unsqueeze(1)
        logits = torch.bmm(query, seen.transpose(1, 2)).float() * width**-0.5
        attention = logits.masked_fill(~attended, torch.finfo(logits.dtype).min).softmax(-1) * attended
        mean = torch.bmm(attention.to(seen.dtype), seen)
        value_weight = self.to_v.weight.view(heads, width, channels)
        value = torch.bmm(mean.transpose(0, 1), value_weight.transpose(1, 2)).transpose(0, 1)
        update = self.to_out(value.reshape(lead))
        return update * attended.any(-1).view(*lead[:-1], 1)
