"""Checks that weights are finite, before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def first_not_finite(state: Mapping[str, Any], dtype: torch.dtype | None = None) -> str | None:
    """Return the name of the first tensor with NaN or infinity; None if all are finite.

    Args:
        state: Tensors by name; other values and integers are skipped.
        dtype: Precision in which the weights will be written, where a large value may become infinite.
    """
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            written = value if dtype is None else value.to(dtype)
            if not bool(written.isfinite().all()):
                return name
    return None


def check_finite(state: Mapping[str, Any], what: str, remedy: str, dtype: torch.dtype | None = None) -> None:
    """Raise FloatingPointError naming the first tensor that is not finite; arguments as for `first_not_finite`.

    Args:
        state: Tensors by name.
        what: Beginning of the sentence, such as "the model folder model is not written".
        remedy: Sentence that ends the error.
        dtype: Precision of the written weights; None: unchanged.
    """
    name = first_not_finite(state, dtype)
    if name is not None:
        as_dtype = "" if dtype is None else f" as {str(dtype).removeprefix('torch.')}"
        raise FloatingPointError(f"{what}: {name} has NaN or infinite values{as_dtype}. {remedy}")
