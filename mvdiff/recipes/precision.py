"""Compute precision of recipes: bfloat16 where the processor multiplies in it, else float32.

Where bfloat16 is emulated it is several times as slow as float32 (notes/libraries.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instruction sets that multiply in bfloat16, as `torch.cpu.get_capabilities` names them; the last is ARM's."""


def chosen_precision(precision: str) -> str:
    """Return a precision as it is, or choose one for "auto" by this processor."""
    if precision != "auto":
        return precision
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version since 2.11
    native = torch.backends.mkldnn.is_available() and multiplies_in_bfloat16(capabilities)
    return "bf16-mixed" if native else "32-true"


def multiplies_in_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Tell whether a processor has products in bfloat16.

    Example:
        >>> multiplies_in_bfloat16({"avx512_f": True, "avx512_bf16": False})
        False
        >>> multiplies_in_bfloat16({"avx512_f": True, "avx512_bf16": True})
        True
    """
    return any(capabilities.get(name, False) for name in NATIVE_BFLOAT16)


def autocast(precision: str) -> torch.autocast:
    """Return the context in which a pipeline on the CPU computes in a precision; geometry and sums stay float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed")
