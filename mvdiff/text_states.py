"""Embeddings of prompts: one tensor, or several by name for bases that need more than one.

Stable Diffusion 1 and 2 take one tensor [..., L, D]. Other bases take a dict: `hidden_states` [..., L, D], and, as the
base needs them, `pooled` [..., P] and `mask` [..., L] bool, True for tokens of the prompt. The functions here treat
both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TextStates = Tensor | dict[str, Tensor]


def map_states(change: Callable[..., Tensor], *states: TextStates) -> TextStates:
    """Apply a function to the tensors of the same name.

    Example:
        >>> map_states(lambda one: one.shape, {"hidden_states": torch.zeros(2, 3), "pooled": torch.zeros(2)})
        {'hidden_states': torch.Size([2, 3]), 'pooled': torch.Size([2])}
    """
    if isinstance(states[0], Tensor):
        return change(*states)
    return {name: change(*(one[name] for one in states)) for name in states[0]}


def cat_states(states: Sequence[TextStates]) -> TextStates:
    """Concatenate along the first axis."""
    return map_states(lambda *tensors: torch.cat(tensors), *states)


def stack_states(states: Sequence[TextStates]) -> TextStates:
    """Stack along a new first axis."""
    return map_states(lambda *tensors: torch.stack(tensors), *states)


def states_to(states: TextStates, device: torch.device | str, dtype: torch.dtype | None = None) -> TextStates:
    """Move to a device; tensors of floats also to a dtype, if one is given."""
    return map_states(lambda one: one.to(device, dtype if one.is_floating_point() else None), states)


def hidden_states_of(states: TextStates) -> Tensor:
    """Return the embeddings of the tokens, [..., L, D]."""
    return states if isinstance(states, Tensor) else states["hidden_states"]
