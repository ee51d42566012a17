"""The number of tokens that attention processes at once on a CPU.

A temporary that stays in a core's caches, and whose memory malloc has at hand, is several times as fast as a large one:
malloc fetches that from the system, page by page, every time. A GPU processes all tokens at once. So does a compiled
layer, in which every piece would be compiled for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512
"""Tokens at once for each thread; with fewer, the weights are read too often."""
NUMBERS = 2**20
"""Numbers of a temporary for each thread: 4 MB in float32."""
FEWEST = 32
"""Fewest tokens at once for each thread, however large the temporary."""


def rows_at_a_time(rows: Tensor, numbers: int = 0) -> int:
    """Return how many rows [N, ...] to process at once.

    Args:
        rows: Rows, each of which is processed on its own.
        numbers: Numbers in the temporary that a row needs, where that is much more than the row.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, len(rows))
    return torch.get_num_threads() * (max(FEWEST, NUMBERS // numbers) if numbers else ROWS)


def tokens_at_a_time(tokens: Tensor) -> int:
    """Return how many tokens of each view [..., T, C] to process at once."""
    views = max(1, tokens[..., 0, 0].numel())
    return max(1, rows_at_a_time(tokens.flatten(0, -2)) // views)
