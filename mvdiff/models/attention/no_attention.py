"""NoAttention: the attention of a base by itself, which has no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.models.attention.base import Level, ViewAttention


@dataclass(frozen=True)
class NoTaps:
    """Taps that hold nothing; see `Taps`."""

    height: int
    width: int
    num_views: int
    batch_size: None = None

    def to(self, device: Any) -> NoTaps:
        """Return the taps themselves."""
        return self

    def repeat(self, times: int) -> NoTaps:
        """Return the taps themselves."""
        return self


class NoAttention(ViewAttention):
    """Leave every view as it is, for comparisons with a base that need no trained adapter."""

    taps_type = NoTaps

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("place", torch.zeros(()), persistent=False)  # has the device and dtype of the adapter

    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[NoTaps]:
        """Return taps with the shape of each level."""
        return [NoTaps(level.height, level.width, batch.num_views) for level in levels]

    def attend(self, tokens: Tensor, taps: Any, view_valid: Any, neighbour_batch: Any, views: int) -> Tensor:
        """Return an update of zeros."""
        return torch.zeros_like(tokens)
