"""How many tokens attention works on at a time on a CPU.

A temporary that stays in a core's caches, and whose memory malloc has at hand, is several times as fast as a large one:
malloc fetches that from the system, page by page, every time. On a GPU all tokens are worked on at once. So they are in
a compiled layer, where every piece would be compiled for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512
"""Tokens at a time for each thread; fewer read the weights too often."""
NUMBERS = 2**20
"""Numbers of a temporary for each thread: 4 MB in float32."""
FEWEST = 32
"""Tokens at a time for each thread at least, however large the temporary."""


def rows_at_a_time(rows: Tensor, numbers: int = 0) -> int:
    """Return how many rows [N, ...] to work on at a time.

    Args:
        rows: Rows that are worked on each by itself.
        numbers: Numbers in the temporary that a row needs, where that is much more than the row.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, len(rows))
    return torch.get_num_threads() * (max(FEWEST, NUMBERS // numbers) if numbers else ROWS)


def tokens_at_a_time(tokens: Tensor) -> int:
    """Return how many tokens of every view [..., T, C] to work on at a time."""
    views = max(1, tokens[..., 0, 0].numel())
    return max(1, rows_at_a_time(tokens.flatten(0, -2)) // views)
