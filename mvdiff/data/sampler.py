"""The order in which samples are seen: a function of (seed, epoch) alone, split over ranks, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler

from mvdiff.keyed import keyed_generator


class KeyedSampler(DistributedSampler):
    """Yield `(epoch, index)` keys, the same ones in the same global order for any number of ranks.

    Rank r takes every `world_size`-th position of the epoch's order, so the samples of one optimizer step are the same
    for 1 rank with batch 4, 2 ranks with batch 2, or 4 accumulated batches of 1. With `shuffle` (training) the order
    is a permutation keyed by (seed, epoch), continued from its own start up to a multiple of `multiple_of`, so that
    all ranks and steps are full. Without it (evaluation) the order is 0..n-1, each sample comes once, and the epoch
    stays 0, so that evaluation is the same at any time.

    It is a `DistributedSampler` so that Lightning leaves it in place and tells it the epoch by `set_epoch`.

    Args:
        num_samples: Number of samples in the data set.
        seed: Seed of the order.
        shuffle: True for training, False for evaluation.
        rank: This process's number.
        world_size: Number of processes.
        batch_size: Samples per batch and process.
        multiple_of: Training epochs are filled up to a multiple of this (the total batch, accumulation included); a
            multiple of `batch_size * world_size`, its default.

    Raises:
        ValueError: No samples, or fewer than ranks in evaluation, or counts that do not fit.

    Example:
        >>> list(KeyedSampler(3, seed=0, shuffle=False, rank=1, world_size=2))
        [(0, 1)]
    """

    def __init__(
        self,
        num_samples: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        multiple_of: int | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {num_samples}. The data set is empty.")
        if not shuffle and num_samples < world_size:
            raise ValueError(
                f"num_samples must be at least the number of devices ({world_size}) in evaluation; got {num_samples}. "
                "Use fewer devices."
            )
        super().__init__(range(num_samples), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.size = num_samples  # of the data set; `num_samples` of a DistributedSampler is per rank
        self.batch_size = batch_size
        multiple_of = multiple_of or batch_size * world_size
        if multiple_of % (batch_size * world_size):
            raise ValueError(
                f"multiple_of must be a multiple of batch_size x devices ({batch_size} x {world_size}); "
                f"got {multiple_of}."
            )
        self.total_size = -(-num_samples // multiple_of) * multiple_of if shuffle else num_samples
        self.num_samples = len(range(rank, self.total_size, world_size))
        self._resume: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is iterated next (training only; evaluation stays at epoch 0)."""
        self.epoch = epoch if self.shuffle else 0

    def order(self, epoch: int) -> list[int]:
        """Return the epoch's sample indices over all ranks, in order."""
        if not self.shuffle:
            return list(range(self.size))
        permutation = torch.randperm(self.size, generator=keyed_generator("order", self.seed, epoch)).tolist()
        return [permutation[position % self.size] for position in range(self.total_size)]

    def state_dict(self, batches_done: int, epoch_is_over: bool = False) -> dict[str, int]:
        """Return the state after some batches of the current epoch.

        The sampler cannot count them itself: workers read ahead of training.

        Args:
            batches_done: Batches that training has finished in this epoch on each rank.
            epoch_is_over: No more batches of it will be used.

        Returns:
            `epoch`, `position` (samples of that epoch's global order already used) and `stride` (samples that all
            ranks use per batch).
        """
        stride = self.batch_size * self.num_replicas
        position = batches_done * stride
        if epoch_is_over or position >= self.total_size:
            return {"epoch": self.epoch + 1, "position": 0, "stride": stride}
        return {"epoch": self.epoch, "position": position, "stride": stride}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass over `state["epoch"]` begin at `state["position"]`.

        Raises:
            ValueError: The state was saved in mid-epoch with another batch size or number of devices.
        """
        stride = self.batch_size * self.num_replicas
        if state["position"] and state["stride"] != stride:
            raise ValueError(
                f"batch_size x devices must be {state['stride']} to resume in mid-epoch; got {stride}. Use the same "
                "settings as the interrupted run, or a checkpoint saved at the end of an epoch."
            )
        self.set_epoch(state["epoch"])
        self._resume = (state["epoch"], state["position"])

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, also when the next pass is a resumed, shorter one."""
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        resume, self._resume = self._resume, None
        start = resume[1] if resume and resume[0] == epoch else 0
        order = self.order(epoch)
        return ((epoch, order[position]) for position in range(start + self.rank, len(order), self.num_replicas))
