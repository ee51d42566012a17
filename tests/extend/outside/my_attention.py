"""Each view takes the mean of the views before and after it."""

from dataclasses import dataclass

import torch
from torch import nn

from mvdiff.models.attention import ViewAttention


@dataclass(frozen=True)
class WholeViews:
    """Taps of an attention that looks at whole views, whatever their cameras."""

    num_views: int
    height: int
    width: int
    batch_size: int | None = None

    def to(self, device):
        return self

    def repeat(self, times):
        return self


class MeanOfNeighbours(ViewAttention):
    """A token takes the same cell of the views beside it, scaled by a trained weight per channel."""

    taps_type = WholeViews

    def __init__(self, channels, *, start=0.0):
        super().__init__(channels)
        self.weight = nn.Parameter(torch.full((channels,), start))

    def build_taps(self, batch, levels):
        return [WholeViews(batch.num_views, level.height, level.width) for level in levels]

    def attend(self, tokens, taps, view_valid, neighbour_batch, views):
        lent = tokens if neighbour_batch is None else tokens[neighbour_batch]
        if view_valid is not None:
            lent = lent * view_valid[..., None, None]
        return self.weight * (lent.roll(1, dims=1) + lent.roll(-1, dims=1)) / 2
