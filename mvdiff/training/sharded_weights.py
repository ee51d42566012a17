"""Weights that are spread over the devices of a sharded run (`mvdiff.training.sharding`), as torch's DTensors.

Without sharding every function returns its tensors as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Any) -> Any:
    """Gather a sharded tensor; other values are returned unchanged. All ranks must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the tensors of a state dict on the CPU, one at a time; all ranks must call this.

    Without a sharded tensor the values are those of `state`.
    """
    return {name: whole(value).cpu() if isinstance(value, DTensor) else value for name, value in state.items()}


def own_shard(value: Tensor) -> Tensor:
    """Return this rank's part of a tensor, which may be empty."""
    return value.to_local() if isinstance(value, DTensor) else value


def spread(value: Any, like: Any) -> Any:
    """Return this rank's part of a whole tensor, sharded as `like`; every rank has the whole tensor."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def spread_weights(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return a state dict with its tensors sharded as those of `module` with the same names."""
    like = module.state_dict()
    return {name: spread(value, like.get(name)) for name, value in state.items()}


def is_sharded(module: nn.Module | None) -> bool:
    """Return True if a module's weights are spread over devices."""
    return module is not None and any(isinstance(value, DTensor) for value in module.parameters())


def largest_norm(gradients: list[Tensor]) -> Tensor:
    """Return the largest absolute value in this rank's parts of gradients; 0 if it has none."""
    parts = [part for part in map(own_shard, gradients) if part.numel()]
    return torch.nn.utils.get_total_norm(parts, norm_type=torch.inf)
