"""The floor of correspondence-aware attention: multiply-adds and bytes that no implementation can do without.

A block of C channels on N tokens with S visible taps each (own derivation; `CorrespondenceAwareAttention` says what the
layers are):

- Products: query, key, value and output projection have C^2 weights each, the feed-forward layer 12 C^2, and each
  weight meets each token once: 16 C^2 N multiply-adds. Keys and values are not projected per tap.
- Taps: interpolation takes 4 C, a dot product C, and the weighted sum C: 6 C S N.
- Numbers moved: weights once, 16 C^2 + 14 C; features in and out once, 2 C N; one cell of features for each tap, C S N
  (neighbouring taps share corners, so one new cell each is what must be read). Place and validity of a tap: 9 bytes.

A training step has three times the products (output, gradient of the input, gradient of the weights), 14 C S N for taps
(interpolation and its transpose 4 each, the dot product and the sum 1 forward and 2 backward each), and moves weights
three times (forward, backward, gradients), features five (in and out forward, in again backward, gradients in and out),
and taps three (forward, again backward, gradients).

Norms, activations, softmax and encodings are left out: they can stay in registers. The floor in seconds is the larger
of multiply-adds over the rate of a matrix product and bytes over the rate of a copy, both measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mvdiff.models.attention import CorrespondenceAwareAttention

TAP_BYTES = 9
"""Place of a tap, two float32 numbers, and its validity."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and bytes of a pass."""

    multiply_adds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes)

    def seconds(self, rates: Rates) -> float:
        """Return the time that the slower of both takes."""
        return max(self.multiply_adds / rates.multiply_adds, self.bytes / rates.bytes)


@dataclass(frozen=True)
class Rates:
    """Multiply-adds and bytes per second of a machine."""

    multiply_adds: float
    bytes: float


def floor_of(block: CorrespondenceAwareAttention, taps: Any, training: bool = False) -> Cost:
    """Return the floor of one block for one sample; `taps` are shared by all samples."""
    channels, visible = block.channels, int(taps.visible.sum())
    tokens, width = taps.num_views * taps.height * taps.width, block.to_q.weight.element_size()
    weights = 16 * channels**2 + 14 * channels
    products, tap_products = 16 * channels**2 * tokens, 6 * channels * visible
    moved = width * (weights + channels * (2 * tokens + visible))
    if training:
        products, tap_products = 3 * products, 14 * channels * visible
        moved = width * (3 * weights + channels * (5 * tokens + 3 * visible))
    return Cost(products + tap_products, moved + TAP_BYTES * visible)


def own_multiply_adds(block: CorrespondenceAwareAttention, taps: Any) -> float:
    """Return the multiply-adds of a forward pass as the package computes it, padded slots included.

    Each head has a key of C channels: a dot product and a sum take H C per slot in place of C.
    """
    channels, slots = block.channels, taps.visible.numel()
    tokens = taps.num_views * taps.height * taps.width
    return 16 * channels**2 * tokens + (4 + 2 * block.num_heads) * channels * slots


def blocks_and_taps(model: Any, geometry: Any) -> list[tuple[CorrespondenceAwareAttention, Any]]:
    """Return the blocks of a multi-view network with the taps of their level, in the order in which they run."""
    levels, adapter = geometry.levels, model.adapter
    if adapter.site_blocks is not None:
        return [(block, levels[0]) for block in adapter.blocks]
    places = [*range(len(levels)), len(levels) - 1, *reversed(range(len(levels)))]
    return [(block, levels[place]) for block, place in zip(adapter.blocks, places, strict=True)]


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum."""
    return sum(costs, Cost())


def rates_of(device: str, dtype: torch.dtype, side: int = 1024) -> Rates:
    """Measure a matrix product and a copy, the best of three each."""
    side = 8 * side if device == "cuda" else side
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(64 * side * side, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, b), device)
    copy = _best(lambda: target.copy_(source), device)
    return Rates(side**3 / product, 2 * source.nbytes / copy)


def _best(run: Any, device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(4):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return min(seconds[1:])
