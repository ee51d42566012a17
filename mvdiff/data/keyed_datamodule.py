"""Base class of the data modules: loaders whose keyed training order is split over devices and resumes exactly."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from mvdiff.batch import MultiViewBatch
from mvdiff.data.counts import check_counts
from mvdiff.data.damage import DamageLog, Substituted, collated
from mvdiff.data.loader import BatchLoader, Reported, collate_or_report
from mvdiff.data.sampler import CopyKey, KeyedSampler
from mvdiff.files.paths import is_url
from mvdiff.signals import outlive_signals

Split = Literal["train", "val", "test"]
NUM_VAL = 16
"""Panoramas or scenes for validation by default, where the training data are many enough."""
_MOST_HELD_OUT = 5  # by default at most one in 5 panoramas or scenes

_log = logging.getLogger(__name__)


@contextmanager
def naming_missing_root(root: str | Path) -> Iterator[None]:
    """Blame the root for a missing file if the root itself, a folder, does not exist."""
    try:
        yield
    except FileNotFoundError as error:
        if is_url(root) or Path(root).exists():
            raise
        raise FileNotFoundError(
            f"data.root must be a folder with a data set; {root} does not exist. Put the data there (docs/data.md) or "
            "set --data.root."
        ) from error


class MultiViewDataModule(LightningDataModule, ABC):
    """Loaders of `MultiViewBatch`.

    Subclasses define `train_dataset` and `eval_dataset`, whose items are indexed by (epoch, index) and accepted by
    `MultiViewBatch.collate`, and the attributes `height` and `width` (image size in pixels). The module's own sampler
    splits samples over devices, so use `Trainer(use_distributed_sampler=False)`. The number of devices, the number of
    workers and the batch split change neither a sample's content nor which samples share an optimizer step.

    Args:
        batch_size: Training samples per device and step.
        eval_batch_size: Validation, test and prediction samples per device and step; None: `batch_size`.
        num_workers: Loader processes per device.
        seed: Random seed of the training data: order, yaws, masks, choice of frames.
        max_samples: Use only the first `max_samples` training samples; None: all.
        max_test_samples: Use only the first `max_test_samples` test samples; None: all.
        val_from: "train" holds out the last `num_val` of the training data for validation, so that checkpoints are not
            selected on the test split; "test" validates on the first `num_val` of the test split.
        shuffle_block: Shuffle training samples in blocks of this many neighbours of the data set's order, for data that
            are read from afar (docs/data.md); None: shuffle all of them. Files and shards have the same order.
        mixed_blocks: With `shuffle_block`: blocks whose samples are shuffled together.
        max_damaged: Training samples that may turn out to be damaged or missing when they are read, per device; each is
            named, and another one takes its place. One more is an error, and so is any in validation and test.
        num_val: Number of panoramas or scenes for validation; 0 disables validation; None: 16, but at most a fifth of
            the training data.

    Raises:
        ValueError: A setting is out of range. `setup` raises errors about data.
    """

    def __init__(
        self,
        batch_size: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        max_samples: int | None = None,
        max_test_samples: int | None = None,
        val_from: Literal["train", "test"] = "train",
        num_val: int | None = None,
        shuffle_block: int | None = None,
        mixed_blocks: int = 8,
        max_damaged: int = 0,
    ) -> None:
        super().__init__()
        check_counts(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_samples=max_samples,
            max_test_samples=max_test_samples,
            shuffle_block=shuffle_block,
            mixed_blocks=mixed_blocks,
        )
        if num_val is not None and num_val < 0:
            raise ValueError(f"num_val must be at least 0; got {num_val}.")
        if max_damaged < 0:
            raise ValueError(f"max_damaged must be at least 0; got {max_damaged}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.max_samples = max_samples
        self.max_test_samples = max_test_samples
        self.shuffle_block = shuffle_block
        self.mixed_blocks = mixed_blocks
        self.damage = DamageLog(max_damaged)
        self.val_from = val_from
        self.num_val = NUM_VAL if num_val is None else num_val
        self._may_lower_num_val = num_val is None
        self._said_held_out = False
        self._train_sampler: KeyedSampler | None = None
        self._resume: dict[str, int] | None = None

    @abstractmethod
    def train_dataset(self) -> Dataset:
        """Return the training samples."""

    @abstractmethod
    def eval_dataset(self, split: Split) -> Dataset:
        """Return the samples of a split for evaluation, without randomness."""

    def setup(self, stage: str) -> None:
        """Open the splits that a stage ("fit", "validate", "test", "predict") needs, to report errors early."""
        if stage == "fit":
            self.train_dataset()
        if stage not in ("fit", "validate"):
            self.test_dataset()
        elif self.num_val:
            self.val_dataset()

    def val_dataset(self) -> Dataset:
        """Return the validation samples."""
        return self.eval_dataset("val")

    def test_dataset(self) -> Dataset:
        """Return the test samples."""
        return self.eval_dataset("test")

    def in_test(self, split: Split) -> bool:
        """Return True if the samples of a split come from the test data.

        Raises:
            ValueError: The split is unknown, or validation is disabled.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val' or 'test'; got {split!r}.")
        if split == "val" and not self.num_val:
            raise ValueError("num_val must be at least 1 for a val split; got 0.")
        return split == "test" or (split == "val" and self.val_from == "test")

    def num_held_out(self, size: int, noun: str) -> int:
        """Return how many of `size` training panoramas or scenes are held out for validation; log unusual shares.

        Raises:
            ValueError: None would be left for training.
        """
        if self.val_from == "test" or not self.num_val:
            return 0
        count = self.num_val
        if self._may_lower_num_val and count * _MOST_HELD_OUT > size:
            count = max(1, size // _MOST_HELD_OUT)
        if count >= size:
            raise ValueError(
                f"num_val must be below the number of training {noun} ({size}); got {count}. Lower it, or set val_from "
                'to "test".'
            )
        if (count != self.num_val or 2 * count > size) and not self._said_held_out:
            self._said_held_out = True
            _log.warning(
                "%d of the %d training %s are held out for validation, %d are left to train on; set data.num_val to "
                "change that",
                *(count, size, noun, size - count),
            )
        return count

    def num_train_batches(self) -> int:
        """Return the batches of a whole training epoch on this device."""
        return len(self._new_train_sampler()) // self.batch_size

    def train_dataloader(self) -> DataLoader:
        """Return the training loader; after a resume, its first pass continues from the checkpoint's position."""
        sampler = self._new_train_sampler()
        if self._resume:
            sampler.load_state_dict(self._resume)
            self._resume = None
        self._train_sampler = sampler
        dataset = self.train_dataset()
        if not self.damage.limit:
            return self._loader(dataset.__getitem__, sampler)
        collate = partial(collated, MultiViewBatch.collate)
        loader = self._loader(Substituted(dataset, self.seed), sampler, collate)
        loader.unwrap = self.damage.unwrap
        return loader

    def val_dataloader(self) -> DataLoader | Sequence[DataLoader]:
        """Return the validation loader."""
        return self.eval_dataloader("val") if self.num_val else []

    def test_dataloader(self) -> DataLoader:
        """Return the test loader."""
        return self.eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test split, for generation."""
        return self.eval_dataloader("test")

    def state_dict(self) -> dict[str, int]:
        """Return the position of training in its order: epoch, position, stride."""
        if not self._train_sampler or not self.trainer:
            return {}
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        # an epoch shortened by limit_train_batches is also over
        return self._train_sampler.state_dict(done, epoch_is_over=done >= loop.max_batches)

    @staticmethod
    def state_at(state_dict: dict[str, int], epoch: int, batches_done: int, epoch_is_over: bool) -> dict[str, int]:
        """Return a saved position, moved to another place of training; see `KeyedSampler.state_dict`."""
        if epoch_is_over:
            return state_dict | {"epoch": epoch + 1, "position": 0}
        return state_dict | {"epoch": epoch, "position": batches_done * state_dict["stride"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of training; the next training loader uses it."""
        self._resume = dict(state_dict) or None

    def eval_dataloader(self, split: Split) -> DataLoader:
        """Return a loader of `eval_dataset`: each sample of the split once, in order, split over devices.

        Where the samples cannot be split evenly, batches say which samples are copies (`MultiViewBatch.is_copy`).
        """
        dataset = self.eval_dataset(split)
        sampler = self._sampler(dataset, self.eval_batch_size, shuffle=False)
        return self._loader(partial(_marked, dataset) if sampler.has_copies else dataset.__getitem__, sampler)

    def _new_train_sampler(self) -> KeyedSampler:
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        return self._sampler(self.train_dataset(), self.batch_size, shuffle=True, accumulate=accumulate)

    def _sampler(self, dataset: Dataset, batch_size: int, shuffle: bool, accumulate: int = 1) -> KeyedSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        total = batch_size * world_size * accumulate
        blocks = {"shuffle_block": self.shuffle_block, "mixed_blocks": self.mixed_blocks}
        return KeyedSampler(len(dataset), self.seed, shuffle, rank, world_size, batch_size, total, **blocks)

    def _loader(
        self, read: Callable[[Any], Any], sampler: KeyedSampler, collate: Callable[[list], Any] = MultiViewBatch.collate
    ) -> BatchLoader:
        return BatchLoader(
            Reported(read, sampler.size),
            batch_size=sampler.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=partial(collate_or_report, collate),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=outlive_signals,
        )


def _marked(dataset: Dataset, key: tuple[int, int]) -> Any:
    """Read a sample and mark it as a copy or an original."""
    sample, is_copy = dataset[key], isinstance(key, CopyKey)
    if isinstance(sample, MultiViewBatch):
        return replace(sample, is_copy=torch.tensor([is_copy]))
    return {**sample, "is_copy": is_copy}
