"""Rows that are added one after the other, in one tensor with spare room behind them.

A tensor per row would stay in memory between the large tensors that a sample needs for a moment. glibc could not use
the place of those again, and the heap would grow by several megabytes with each sample.
"""

from torch import Tensor


def extend(state: list[Tensor], values: Tensor) -> None:
    """Add rows [N, ...] to a list of tensors, in place in the spare room behind the rows of its last tensor.

    A tensor that was in the list before still holds its own rows. Rows of another dtype or shape begin a new tensor.

    Example:
        >>> import torch
        >>> state = []
        >>> extend(state, torch.tensor([[1, 2]]))
        >>> before = state[0]
        >>> extend(state, torch.tensor([[3, 4]]))
        >>> before.tolist(), [rows.tolist() for rows in state]
        ([[1, 2]], [[[1, 2], [3, 4]]])
    """
    if state and not len(values):
        return
    rows = state.pop() if state else values[:0].clone()
    if rows.dtype != values.dtype or rows.shape[1:] != values.shape[1:]:
        state += [rows, values.clone()]
        return
    size, storage = len(rows) + len(values), rows.untyped_storage()
    room = storage.nbytes() // max(1, values[:1].nbytes)
    if room < size:
        wider = values.new_empty(2 * size, *values.shape[1:])
        wider[: len(rows)] = rows
    else:
        wider = values.new_empty(0).set_(storage, 0, (room, *values.shape[1:]))
    wider[len(rows) : size] = values
    state.append(wider[:size])
