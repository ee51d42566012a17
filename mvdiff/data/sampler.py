"""A sampler whose order depends only on (seed, epoch), is split over ranks and resumes mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler

from mvdiff.data.counts import check_counts
from mvdiff.keyed import keyed_generator


class CopyKey(tuple):
    """Key (epoch, index) of a sample that another rank has in the same pass; it only fills up this rank's share."""


class KeyedSampler(DistributedSampler):
    """Yield `(epoch, index)` keys in a global order that does not depend on the number of ranks.

    Rank r takes every `world_size`-th position of the epoch's order, so an optimizer step uses the same samples with 1
    rank and batch 4, 2 ranks and batch 2, or 4 accumulated batches of 1. With `shuffle` (training), the order is a
    permutation keyed by (seed, epoch), repeated from its start up to a multiple of `multiple_of`, so that all ranks and
    steps are full. Without it (evaluation), the order is 0..n-1, each sample comes once, and the epoch stays 0, so that
    evaluation is always the same. So that all ranks make the same number of steps, those that would have one sample
    less repeat one of the first, under a `CopyKey`: such samples are not to be counted.

    With a `shuffle_block` neighbours of the data's order stay together (`block_permutation`), so that data that are
    read from afar are read in large pieces. The order still depends on the settings alone: it is the same for files
    and for shards of the same data.

    The class derives from `DistributedSampler` so that Lightning does not replace it and calls `set_epoch`.

    Args:
        num_samples: Number of samples in the data set.
        seed: Random seed of the order.
        shuffle: True for training, False for evaluation.
        rank: Index of this process.
        world_size: Number of processes.
        batch_size: Samples per batch and process.
        multiple_of: Training epochs are padded to a multiple of this, the total batch with accumulation; must be a
            multiple of `batch_size * world_size`. None: that product.
        shuffle_block: Samples per block in training; None: permute all samples.
        mixed_blocks: Blocks that are permuted together.

    Raises:
        ValueError: There are no samples, or `multiple_of` is not a multiple.

    Example:
        >>> list(KeyedSampler(3, seed=0, shuffle=False, rank=1, world_size=2))  # the second is a copy of rank 0's
        [(0, 1), (0, 0)]
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
        shuffle_block: int | None = None,
        mixed_blocks: int = 8,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
        super().__init__(range(num_samples), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.size = num_samples  # of the data set; `num_samples` of a DistributedSampler is per rank
        check_counts(shuffle_block=shuffle_block, mixed_blocks=mixed_blocks)
        self.shuffle_block, self.mixed_blocks = shuffle_block, mixed_blocks
        self.batch_size = batch_size
        multiple_of = multiple_of or batch_size * world_size
        if multiple_of % (batch_size * world_size):
            raise ValueError(
                f"multiple_of must be a multiple of batch_size x devices ({batch_size} x {world_size}); "
                f"got {multiple_of}."
            )
        multiple_of = multiple_of if shuffle else world_size
        self.total_size = -(-num_samples // multiple_of) * multiple_of
        self.num_samples = len(range(rank, self.total_size, world_size))
        self._resume: tuple[int, int] | None = None

    @property
    def has_copies(self) -> bool:
        """True if some rank has a `CopyKey`; the same on all ranks."""
        return not self.shuffle and self.total_size > self.size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; evaluation stays at epoch 0."""
        self.epoch = epoch if self.shuffle else 0

    def order(self, epoch: int) -> list[int]:
        """Return the epoch's sample indices over all ranks, in order."""
        if not self.shuffle:
            permutation = range(self.size)
        elif self.shuffle_block is None:
            permutation = torch.randperm(self.size, generator=keyed_generator("order", self.seed, epoch)).tolist()
        else:
            permutation = block_permutation(self.size, self.shuffle_block, self.mixed_blocks, self.seed, epoch)
        return [permutation[position % self.size] for position in range(self.total_size)]

    def state_dict(self, batches_done: int, epoch_is_over: bool = False) -> dict[str, int]:
        """Return the state after a number of batches of the current epoch.

        The sampler cannot count batches itself, since workers read ahead of training.

        Args:
            batches_done: Batches of this epoch that training has finished on each rank.
            epoch_is_over: True if the epoch ends after these batches.

        Returns:
            `epoch`, `position` (number of samples used in that epoch's global order), `stride` (samples per batch over
            all ranks), and the settings of blocks if there are any.
        """
        stride = self.batch_size * self.num_replicas
        position = batches_done * stride
        is_over = epoch_is_over or position >= self.total_size
        place = {"epoch": self.epoch + 1, "position": 0} if is_over else {"epoch": self.epoch, "position": position}
        return place | {"stride": stride} | self._blocks()

    def _blocks(self) -> dict[str, int]:
        blocks = {"shuffle_block": self.shuffle_block, "mixed_blocks": self.mixed_blocks}
        return {} if self.shuffle_block is None else blocks

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next pass over `state["epoch"]` start at `state["position"]`.

        Raises:
            ValueError: The state was saved mid-epoch with another batch size, number of devices, or blocks.
        """
        stride = self.batch_size * self.num_replicas
        if state["position"] and state["stride"] != stride:
            raise ValueError(
                f"data.batch_size x devices must be {state['stride']} to resume mid-epoch; got {stride}. Use the same "
                "settings as the interrupted run, or a checkpoint saved at the end of an epoch."
            )
        blocks = {name: state[name] for name in ("shuffle_block", "mixed_blocks") if name in state}
        if state["position"] and blocks != self._blocks():
            raise ValueError(
                f"data.shuffle_block and data.mixed_blocks must be {blocks or 'null'} to resume mid-epoch; got "
                f"{self._blocks() or 'null'}. Use the same settings as the interrupted run, or a checkpoint saved at "
                "the end of an epoch."
            )
        self.set_epoch(state["epoch"])
        self._resume = (state["epoch"], state["position"])

    def __len__(self) -> int:
        """Return the number of samples of a full epoch on this rank, even before a shorter, resumed pass."""
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        resume, self._resume = self._resume, None
        start = resume[1] if resume and resume[0] == epoch else 0
        order = self.order(epoch)
        whole = len(order) if self.shuffle else self.size
        return (
            (epoch, order[position]) if position < whole else CopyKey((epoch, order[position]))
            for position in range(start + self.rank, len(order), self.num_replicas)
        )


def block_permutation(size: int, block: int, mixed: int, seed: int, epoch: int) -> list[int]:
    """Permute 0..size-1 in blocks: the blocks, then the samples of every `mixed` consecutive ones together.

    The samples of a step come from `mixed` blocks of the data, which each epoch draws anew.
    Neighbours in the data (panoramas of one house) meet in a step about size / (mixed * block) times as often as in a
    permutation of everything (own derivation).

    Args:
        size: Number of samples.
        block: Samples per block; the last block may have fewer.
        mixed: Blocks that are permuted together.
        seed: Random seed.
        epoch: Epoch.

    Example:
        >>> block_permutation(8, block=2, mixed=2, seed=0, epoch=0)
        [6, 7, 5, 4, 1, 0, 3, 2]
    """
    starts = torch.randperm(-(-size // block), generator=keyed_generator("blocks", seed, epoch)) * block
    permutation = []
    for number, group in enumerate(starts.split(mixed)):
        samples = [index for start in group.tolist() for index in range(start, min(start + block, size))]
        order = torch.randperm(len(samples), generator=keyed_generator("in blocks", seed, epoch, number))
        permutation += [samples[position] for position in order.tolist()]
    return permutation
