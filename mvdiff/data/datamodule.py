"""LightningDataModules of panoramas: train, val, test and predict loaders whose training order resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mvdiff.batch import MultiViewBatch
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import PROMPT_PREFIX, PanoramaDataset, PanoramaSource
from mvdiff.data.sampler import KeyedSampler
from mvdiff.geometry.cameras import Rig, RingRig

Split = Literal["train", "val", "test"]


class PanoramaDataModule(LightningDataModule):
    """Panoramas of one layout (a subclass names it) as batches of a rig's views.

    Training cuts at a random yaw, validation, test and prediction at yaw 0, in order, each sample once. Use it with
    `Trainer(use_distributed_sampler=False)`; its own sampler splits samples over devices. The number of devices, of
    workers and the batch split never change what a sample shows, nor which samples share an optimizer step.

    Args:
        root: The data set's folder.
        rig: The views to cut; by default the paper's ring of 8, 90 degrees, 512x512.
        batch_size: Samples per device and step in training.
        eval_batch_size: Samples per device and step elsewhere; by default `batch_size`.
        num_workers: Loading processes per device.
        prompt_prefix: Put before every prompt.
        yaw: "random" (whole degrees), or the degrees to choose from in training.
        mirror: Mirror every second training sample on average.
        seed: Seed of order, yaw and mirroring.
        max_samples: Use the first of the training panoramas only (None: all).
        max_test_samples: Use the first of the test panoramas only (None: all).
        val_from: "train" keeps the last `num_val` training panoramas out of training for validation, so that the
            checkpoint is not chosen on the test split; "test" validates on the first `num_val` test panoramas.
        num_val: Panoramas to validate on; 0 switches validation off.
        on_broken: "error" stops at incomplete panoramas, "skip" leaves them out, counted and logged.

    Raises:
        ValueError: A setting is out of range. Data errors come from `setup`.
    """

    source_class: type
    """Reads the layout: called with (root, split, on_broken)."""

    def __init__(
        self,
        root: str | Path,
        rig: Rig | None = None,
        batch_size: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        prompt_prefix: str = PROMPT_PREFIX,
        yaw: Literal["random"] | list[float] = "random",
        mirror: bool = False,
        seed: int = 0,
        max_samples: int | None = None,
        max_test_samples: int | None = None,
        val_from: Literal["train", "test"] = "train",
        num_val: int = 16,
        on_broken: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("max_samples", max_samples),
            ("max_test_samples", max_test_samples),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if num_val < 0:
            raise ValueError(f"num_val must be at least 0; got {num_val}.")
        self.root = root
        self.rig = rig or RingRig()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.prompt_prefix = prompt_prefix
        self.yaw = yaw
        self.mirror = mirror
        self.seed = seed
        self.max_samples = max_samples
        self.max_test_samples = max_test_samples
        self.val_from = val_from
        self.num_val = num_val
        self.on_broken = on_broken
        self._sources: dict[str, PanoramaSource] = {}
        self._train_sampler: KeyedSampler | None = None
        self._resume: dict[str, int] | None = None

    def source(self, split: str) -> PanoramaSource:
        """Return the reader of a split, made at the first call."""
        if split not in self._sources:
            self._sources[split] = self.source_class(self.root, split, on_broken=self.on_broken)
        return self._sources[split]

    def setup(self, stage: str) -> None:
        """Open the splits that a stage ("fit", "validate", "test", "predict") needs, so that errors come early."""
        if stage in ("fit", "validate"):
            self.train_dataset() if stage == "fit" else None
            self.val_dataset() if self.num_val else None
        else:
            self.test_dataset()

    def train_dataset(self) -> PanoramaDataset:
        """Return the training samples."""
        source, indices = self._part("train")
        return PanoramaDataset(source, self.rig, self.yaw, self.prompt_prefix, self.seed, self.mirror, indices)

    def val_dataset(self) -> PanoramaDataset:
        """Return the validation samples, at yaw 0."""
        return self.eval_dataset("val")

    def test_dataset(self) -> PanoramaDataset:
        """Return the test samples, at yaw 0."""
        return self.eval_dataset("test")

    def eval_dataset(self, split: Split) -> PanoramaDataset:
        """Return the samples of a split at yaw 0, as they stand; for "train" those that training turns and mirrors.

        Raises:
            ValueError: There is no such split, or it is empty.
        """
        source, indices = self._part(split)
        return PanoramaDataset(source, self.rig, (0,), self.prompt_prefix, self.seed, indices=indices)

    def _part(self, split: Split) -> tuple[PanoramaSource, range]:
        """Return the reader of a split's files and the indices of the split's panoramas in it."""
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val' or 'test'; got {split!r}. Choose one.")
        if split == "val" and not self.num_val:
            raise ValueError("num_val must be at least 1 for a val split; got 0. Set it, or choose another split.")
        in_test = split == "test" or (split == "val" and self.val_from == "test")
        source = self.source("test" if in_test else "train")
        size = len(source)
        if in_test:
            most = self.num_val if split == "val" else self.max_test_samples
            return source, range(min(size, most or size))
        first_val = size - self.num_val if self.val_from == "train" else size
        if split == "val":
            return source, range(max(0, first_val), size)
        if first_val <= 0:
            raise ValueError(
                f"num_val must be below the number of training panoramas ({size}); got {self.num_val}. "
                'Lower it, or set val_from to "test".'
            )
        return source, range(min(first_val, self.max_samples or first_val))

    def train_dataloader(self) -> DataLoader:
        """Return the training loader; the first pass after a resume begins where the checkpoint was."""
        dataset = self.train_dataset()
        rank, world_size = self._rank_and_world_size()
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        sampler = KeyedSampler(
            len(dataset),
            self.seed,
            shuffle=True,
            rank=rank,
            world_size=world_size,
            batch_size=self.batch_size,
            multiple_of=self.batch_size * world_size * accumulate,
        )
        if self._resume:
            sampler.load_state_dict(self._resume)
            self._resume = None
        self._train_sampler = sampler
        return self._loader(dataset, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader | Sequence[DataLoader]:
        """Return the validation loader."""
        return self.eval_dataloader("val") if self.num_val else []

    def test_dataloader(self) -> DataLoader:
        """Return the test loader."""
        return self.eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the samples to generate: those of the test split."""
        return self.eval_dataloader("test")

    def state_dict(self) -> dict[str, int]:
        """Return where training stands in its order: epoch, position, stride."""
        if not self._train_sampler or not self.trainer:
            return {}
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        # An epoch cut short by limit_train_batches is over, too.
        return self._train_sampler.state_dict(done, epoch_is_over=done >= loop.max_batches)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where a checkpoint's training stood; used by the next training loader."""
        self._resume = dict(state_dict) or None

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def eval_dataloader(self, split: Split) -> DataLoader:
        """Return a loader of `eval_dataset`: each sample of the split once, in order, divided over devices."""
        dataset = self.eval_dataset(split)
        rank, world_size = self._rank_and_world_size()
        sampler = KeyedSampler(
            len(dataset), shuffle=False, rank=rank, world_size=world_size, batch_size=self.eval_batch_size
        )
        return self._loader(dataset, sampler, self.eval_batch_size)

    def _loader(self, dataset: PanoramaDataset, sampler: KeyedSampler, batch_size: int) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=MultiViewBatch.collate,
            pin_memory=torch.cuda.is_available(),
        )


class Matterport3DDataModule(PanoramaDataModule):
    """Panoramas in the Matterport3D layout; arguments as for `PanoramaDataModule`."""

    source_class = Matterport3DPanoramas


class EquirectangularDataModule(PanoramaDataModule):
    """Panoramas in a folder of equirectangular images; arguments as for `PanoramaDataModule`."""

    source_class = EquirectangularPanoramas
