"""Correspondence-aware attention (CAA): every token attends to the cells of other views that show the same point.

Axes: B batch, V views, T tokens (h * w cells), S slots (visible taps of a token), C channels, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.correspondence import neighbour_table
from mvdiff.models.attention.base import Level
from mvdiff.models.attention.building import camera_taps, depth_taps
from mvdiff.models.attention.pieces import rows_at_a_time, tokens_at_a_time
from mvdiff.models.attention.taps import DEFAULT_WAVELENGTHS, PackedTaps, encode_displacement, split_views
from mvdiff.models.attention.transformer import TransformerAttention

DEFAULT_MIN_OVERLAP = 0.01
DEFAULT_MIN_DEPTH_OVERLAP = 0.3
"""Minimum overlap of views with depth; the smaller of the two directions counts (the paper's depth model)."""


class CorrespondenceAwareAttention(TransformerAttention):
    """Attend from each token to its corresponding neighbourhoods in other views (the paper's section 4, eq. 1).

    For token s of a view, over all visible taps t* of all its neighbour views::

        q = Wq LN(F(s) + gamma(0))          x = LN(F(t*) + gamma(s* - s))
        M = sum softmax(q . Wk x / sqrt(D)) Wv x
        h = F(s) + Wo M                     out = h + FF(LN(h))

    F(t*) is interpolated bilinearly. A token without visible taps gets no update, not even the bias of `Wo`; empty
    slots are masked.

    Keys and values are not projected per tap. Since `q_H . Wk_H x = (Wk_H^T q_H) . x` and `sum a Wv_H x = Wv_H sum a
    x`, Wk is applied to the query and Wv to the attended mean: four C x C products per token for any number of taps.

    Correspondences come from homographies for views that share a centre, and from depth otherwise (`build_taps`).

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        kernel_size: Side K of the K x K feature-map cells around each corresponding point that are attended to; odd.
        head_dim: Channels per head.
        wavelengths: Shortest and longest wavelength of the positional encoding of displacements, in feature-map cells;
            None: no encoding (gamma is zero), for ablations.
        min_overlap: Fraction of a view, in [0, 1], that must be visible in another view for it to attend to that view;
            with depth, the fraction must be reached in both directions (default: 0.01; with task depth 0.3, as in the
            paper).
        neighbours: For each view, a list of the views (from 0) that it attends to, for example [[1, 7], [0, 2], ...];
            replaces `min_overlap`; only for panoramas.

    Raises:
        ValueError: A setting is out of range.
    """

    taps_type: ClassVar[type] = PackedTaps

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        head_dim: int = 32,
        wavelengths: Sequence[float] | None = DEFAULT_WAVELENGTHS,
        min_overlap: float = DEFAULT_MIN_OVERLAP,
        neighbours: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(channels, head_dim)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive; got {kernel_size}.")
        if wavelengths is not None and (len(wavelengths) != 2 or not 0 < wavelengths[0] < wavelengths[1] < math.inf):
            raise ValueError(f"wavelengths must be two numbers, 0 < shortest < longest; got {list(wavelengths)}.")
        if not 0 <= min_overlap <= 1:
            raise ValueError(f"min_overlap must lie in [0, 1]; got {min_overlap}. The default is 0.01.")
        if neighbours is not None:
            neighbour_table(neighbours, len(neighbours))
        self.kernel_size = kernel_size
        self.wavelengths = None if wavelengths is None else tuple(wavelengths)
        self.min_overlap = min_overlap
        self.neighbours = neighbours

    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[PackedTaps]:
        """Build the taps of a batch: per sample from depths, or shared by all samples from their common cameras.

        Raises:
            ValueError: `neighbours` does not fit the views or is set for views with depth, or samples without depth
                have different cameras.
        """
        if batch.depths is None:
            return camera_taps(batch, levels, self.kernel_size, self.min_overlap, self.neighbours)
        self.check_depth()
        return depth_taps(batch, levels, self.kernel_size, self.min_overlap)

    def check_depth(self) -> None:
        """Raise ValueError if `neighbours` is set; it is only for views that share a centre."""
        if self.neighbours is not None:
            raise ValueError(
                f"neighbours must be left out for frames with depth; got {self.neighbours}. Set min_overlap instead."
            )

    def attend(
        self, tokens: Tensor, taps: PackedTaps, view_valid: Tensor | None, neighbour_batch: Tensor | None, views: int
    ) -> Tensor:
        """Return the update Wo M [B, V, T, C], zero for tokens without visible taps; see `ViewAttention.attend`."""
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
        """Return the update [..., C] of the query tokens, zero where no tap is visible.

        Args:
            own: [..., C] query tokens.
            tokens: [B, V, T, C] all tokens.
            taps: Taps of the query tokens; the leading axes broadcast with those of `own`.
            lenders: [...] long, the sample that each query attends to; broadcasts with `own`.
            view_valid: [B, V] bool.
        """
        size = tokens_at_a_time(own)
        if self.wavelengths is not None:
            taps.encoding(self.channels, self.wavelengths, tokens.dtype)  # once, for all pieces
        lenders = lenders.expand(own.shape[:-1])
        pieces = zip(own.split(size, dim=-2), taps.split_tokens(size), lenders.split(size, dim=-1), strict=True)
        updates = [self._update_some(some, tokens, part, lent, view_valid) for some, part, lent in pieces]
        return torch.cat(updates, dim=-2) if len(updates) > 1 else updates[0]

    def _update_some(
        self, own: Tensor, tokens: Tensor, taps: PackedTaps, lenders: Tensor, view_valid: Tensor | None
    ) -> Tensor:
        """Return what `_update` does, all at once."""
        seen = self._gather(tokens, taps, lenders)  # F(t*)
        if self.wavelengths is not None:
            seen = seen.add_(taps.encoding(self.channels, self.wavelengths, tokens.dtype))
            origin = encode_displacement(tokens.new_zeros(2, dtype=torch.float32), self.channels, self.wavelengths)
            own = own + origin.to(tokens.dtype)
        seen = self.norm1(seen)
        visible = taps.visible.expand(seen.shape[:-1])
        if view_valid is not None:
            visible = visible & view_valid[lenders[..., None], taps.views]
        return self._mix(own, seen, visible)

    def _gather(self, tokens: Tensor, taps: PackedTaps, lenders: Tensor) -> Tensor:
        """Interpolate the features [..., S, C] of every tap from its four corner cells, in one gather."""
        _, num_views, num_tokens, channels = tokens.shape
        cells = taps.cells + (lenders * (num_views * num_tokens))[..., None, None]
        weights = taps.weights.to(tokens.dtype).expand(cells.shape)
        return F.embedding_bag(
            cells.view(-1, 4), tokens.view(-1, channels), per_sample_weights=weights.reshape(-1, 4), mode="sum"
        ).view(*cells.shape[:-1], channels)

    def _mix(self, query: Tensor, seen: Tensor, attended: Tensor) -> Tensor:
        """Return the attention output [..., C] of the queries, zero where there is no key.

        Args:
            query: [..., C] before the norm.
            seen: [..., S, C] normalised keys and values before their projections.
            attended: [..., S] bool, False for slots without a key.
        """
        lead = query.shape
        query = self.to_q(self.norm1(query)).view(-1, self.num_heads, self.head_dim)
        seen, attended = seen.flatten(0, -3), attended.flatten(0, -2)
        size = rows_at_a_time(query, self.num_heads * self.channels)
        pieces = zip(query.split(size), seen.split(size), attended.split(size), strict=True)
        values = [self._attended_values(*piece) for piece in pieces]
        value = torch.cat(values) if len(values) > 1 else values[0]
        return self.to_out(value.reshape(lead)) * attended.any(-1).view(*lead[:-1], 1)

    def _attended_values(self, query: Tensor, seen: Tensor, attended: Tensor) -> Tensor:
        """Return the attended values [N, H, D] of N projected queries [N, H, D]; keys as in `_mix`, flattened."""
        heads, width, channels = self.num_heads, self.head_dim, self.channels
        query = torch.bmm(query.transpose(0, 1), self.to_k.weight.view(heads, width, channels)).transpose(0, 1)
        attended = attended.unsqueeze(1)
        logits = torch.bmm(query, seen.transpose(1, 2)).float() * width**-0.5
        attention = logits.masked_fill(~attended, torch.finfo(logits.dtype).min).softmax(-1) * attended
        mean = torch.bmm(attention.to(seen.dtype), seen)
        value_weight = self.to_v.weight.view(heads, width, channels)
        return torch.bmm(mean.transpose(0, 1), value_weight.transpose(1, 2)).transpose(0, 1)
