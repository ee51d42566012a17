"""Damaged training samples: another sample takes the place of each, up to a limit, and every one is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from mvdiff.keyed import keyed_int

TRIES = 20
"""Samples that are tried in place of a damaged one."""

_log = logging.getLogger(__name__)


class WrongSettings(ValueError):
    """A setting does not fit the data, whatever the sample: never taken for damage."""


class Damaged(NamedTuple):
    """A sample that could not be read: its index among the samples, and the reason."""

    index: int
    reason: str


class Substituted:
    """Read training samples; in place of one that cannot be read, read another.

    The other one depends on (seed, epoch, index) alone, so all numbers of ranks and workers see the same. It is a
    sample like any other: its own randomness, and its own id.

    Args:
        dataset: Samples by (epoch, index).
        seed: Random seed.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __call__(self, key: tuple[int, int]) -> tuple[Any, list[Damaged]]:
        """Return a sample, and those that could not be read in its place.

        Raises:
            ValueError: `TRIES` samples could not be read, one after the other. The data set may raise other errors.
            WrongSettings: The data set raised it.
        """
        epoch, first = key
        index, damaged = first, []
        while len(damaged) < TRIES:
            try:
                return self.dataset[epoch, index], damaged
            except WrongSettings:
                raise
            except (ValueError, OSError) as error:
                damaged.append(Damaged(index, str(error)))
                index = keyed_int("substitute", self.seed, epoch, first, len(damaged)) % len(self.dataset)
        raise ValueError(
            f"data must be readable; {TRIES} samples one after the other are damaged, the last: {damaged[-1].reason}"
        )


class DamageLog:
    """Name each damaged sample once, and stop above a limit.

    Args:
        limit: Most damaged samples; of each device, if there are several.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[int, str] = {}

    def unwrap(self, loaded: tuple[Any, list[Damaged]]) -> Any:
        """Return a batch of `collated` after noting its damaged samples; see `add`."""
        batch, damaged = loaded
        self.add(damaged)
        return batch

    def add(self, damaged: list[Damaged]) -> None:
        """Note samples.

        Raises:
            ValueError: There are more than the limit.
        """
        for index, reason in damaged:
            if index in self.reasons:
                continue
            self.reasons[index] = reason
            count = len(self.reasons)
            if count > self.limit:
                raise ValueError(
                    f"data.max_damaged must be at least the number of damaged training samples; got {self.limit}, and "
                    f"{count} are damaged, the last: {reason}"
                )
            _log.warning("damaged sample %d of at most %d, another takes its place: %s", count, self.limit, reason)


def collated(collate: Callable[[list[Any]], Any], items: list[tuple[Any, list[Damaged]]]) -> tuple[Any, list[Damaged]]:
    """Return the batch of the samples, and the damaged ones of all of them."""
    return collate([item for item, _ in items]), [one for _, damaged in items for one in damaged]
