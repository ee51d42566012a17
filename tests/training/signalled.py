"""A training of one weight that sends itself a signal, to be named in YAML; and its data."""

import multiprocessing
import os
import signal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mvdiff.signals import outlive_signals
from tests.training.one_weight import OneWeight, numbers

HOOKS = (
    "on_fit_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "training_step",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "validation_step",
    "on_validation_epoch_end",
    "on_train_epoch_end",
    "predict_step",
)


class Signalled(OneWeight):
    """One weight, with a loss on validation data; gets a signal in the n-th call of a hook.

    Args:
        hook: One of HOOKS.
        call: Number of the call, counted from 1; 0: never.
        number: Signal.
        times: How often the signal comes, each time from the same call.
        rank: The only rank that gets it; None: every rank.
        group: Send it to the loading processes, too.
    """

    def __init__(
        self,
        hook: str = "training_step",
        call: int = 0,
        number: int = int(signal.SIGTERM),
        times: int = 1,
        rank: int | None = None,
        group: bool = False,
    ) -> None:
        super().__init__()
        assert hook in HOOKS
        self.hook, self.left, self.number, self.times, self.rank = hook, call, number, times, rank
        self.group = group
        self.losses, self.validations = [], []

    def _count(self, hook: str) -> None:
        if hook == self.hook and not self.trainer.sanity_checking:
            self.left -= 1
            if self.left == 0 and self.rank in (None, self.global_rank):
                for process in multiprocessing.active_children() if self.group else ():
                    os.kill(process.pid, self.number)
                for _ in range(self.times):
                    os.kill(os.getpid(), self.number)

    def training_step(self, batch, batch_idx):
        self._count("training_step")
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self._count("on_before_optimizer_step")

    def validation_step(self, batch, batch_idx):
        self.losses.append((self.adapter.weight - batch.x).square().mean().item())
        self.log("val/loss", self.losses[-1], batch_size=1)
        self._count("validation_step")

    def on_validation_epoch_start(self):
        self.losses = []

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.validations.append(tuple(self.losses))
        self._count("on_validation_epoch_end")

    def predict_step(self, batch, batch_idx):
        self._count("predict_step")

    def on_fit_start(self):
        self._count("on_fit_start")

    def on_train_epoch_start(self):
        self._count("on_train_epoch_start")

    def on_train_batch_start(self, batch, batch_idx):
        self._count("on_train_batch_start")

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self._count("on_train_batch_end")

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self._count("on_train_epoch_end")


class NumbersData(LightningDataModule):
    """Three batches to train on, all the same number, and two to validate on; the first of two ranks may have more."""

    batch_size = 1

    def __init__(self, num_workers: int = 0, outlive: bool = True, more_on_first: bool = False) -> None:
        super().__init__()
        self.more_on_first = more_on_first
        self.settings = {"num_workers": num_workers, "worker_init_fn": outlive_signals if outlive else None}

    def train_dataloader(self) -> DataLoader:
        return numbers(2, 2, 2, **self.settings)

    def val_dataloader(self) -> DataLoader:
        return numbers(0, 5, *([5, 5] if self.more_on_first and self.trainer.global_rank == 0 else []))

    def predict_dataloader(self) -> DataLoader:
        return numbers(0, 5)


def yaml_config(folder, *, devices: int = 1, **model) -> dict:
    """Return the settings of a run of two epochs that keeps `last.ckpt` of each epoch's end."""
    keep = {"dirpath": str(folder / "checkpoints"), "filename": "last", "enable_version_counter": False}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return {
        "trainer": {
            "accelerator": "cpu",
            "devices": devices,
            "max_epochs": 2,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}],
            **quiet,
        },
        "model": {"class_path": "tests.training.signalled.Signalled", "init_args": model},
        "data": {"class_path": "tests.training.signalled.NumbersData"},
    }


def weight_of(path) -> float:
    """Return the trained weight in a checkpoint, not its average."""
    checkpoint = torch.load(path, weights_only=True)
    return checkpoint.get("current_model_state", checkpoint["state_dict"])["adapter.weight"].item()
