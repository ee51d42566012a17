"""A loader of batches whose processes hand over a user's mistake as it is, not as the text of a traceback."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

_MISTAKES = (ValueError, OSError, ImportError)
"""Errors of readers about a file that is missing, damaged or of the wrong kind. Other errors keep their traceback."""


class BatchLoader(DataLoader):
    """DataLoader that raises what `Reported` and `collate_or_report` returned, the same with workers as without.

    A worker of torch's loader sends an error as the text of its traceback, under the same class, or as a RuntimeError
    where the class takes several arguments.

    Lightning asks the training loader for a state before it believes that a run can resume within an epoch. The place
    in the epoch is in the state of the data module (`MultiViewDataModule.state_dict`), which counts the batches that
    were used; workers read ahead of them. So the state of the loader is empty.

    Attributes:
        unwrap: Function of the process that trains: what `collate_fn` returned -> the batch; None: it is the batch.
    """

    unwrap: Callable[[Any], Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Start the workers, and return an iterator that yields batches and raises errors."""
        batches = map(_raised, super().__iter__())
        return batches if self.unwrap is None else map(self.unwrap, batches)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; the sampler resumes, see `MultiViewDataModule.load_state_dict`."""


class Reported(Dataset):
    """Data set that returns a user's mistakes in place of the items.

    Args:
        read: Returns the item of a key.
        size: Number of items; None if the loader's sampler knows the keys.
    """

    def __init__(self, read: Callable[[Any], Any], size: int | None = None) -> None:
        self.read, self.size = read, size

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError("the number of items is that of the sampler.")
        return self.size

    def __getitem__(self, key: Any) -> Any:
        """Return the item, or the error in its place."""
        return _or_error(partial(self.read, key))


def collate_or_report(collate: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """Return a batch, or the error of its first item that has one, or that of `collate`."""
    for item in items:
        if isinstance(item, Exception):
            return item
    return _or_error(partial(collate, items))


def _or_error(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except _MISTAKES as error:
        return error if get_worker_info() is None else _portable(error)


def _portable(error: Exception) -> Exception:
    """Return an error that survives the way to another process, with its traceback as a note for `--debug`."""
    note = "In a loading process:\n" + "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class of the user's whose arguments are not those it passes on
        error = ValueError(str(error))
    error.add_note(note)
    return error


def _raised(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value
