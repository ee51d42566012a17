"""Communication between the processes of an evaluation (`torchrun`); all data stays in CPU memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = timedelta(days=1)
"""Longest wait for a process that is slower than the others; torch's is half an hour."""


def new_cpu_group() -> Any:
    """Make a group of all processes that exchanges data in CPU memory, whatever the default group does.

    All processes must call this together. None if there is one process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def gather_objects(value: Any, distributed: bool, group: Any = None) -> list[Any]:
    """Return the values of a group's processes (None: of all), by rank; `[value]` if not `distributed`."""
    if not distributed:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values


def gather_tensors(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensors of all processes, whose dtypes and shapes may differ: the `dist_sync_fn` of sample metrics.

    torchmetrics' own function pads to the largest shape and sends an empty float32 vector from a process without
    samples, which cannot be concatenated with a matrix of another dtype. This one sends bytes and drops empty tensors,
    unless all are empty.
    """
    layouts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(layouts, (tensor.dtype, tuple(tensor.shape)), group)
    sizes = [dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layouts]
    own = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8, device=tensor.device)
    padded[: own.numel()] = own
    received = [torch.empty_like(padded) for _ in layouts]
    dist.all_gather(received, padded, group)
    joined = zip(received, sizes, layouts, strict=True)
    tensors = [data[:size].clone().view(dtype).reshape(shape) for data, size, (dtype, shape) in joined if size]
    return tensors or [tensor]
