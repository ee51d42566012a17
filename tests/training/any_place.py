"""A small training that writes a checkpoint at every place, and the comparison of a resumed run with the whole one."""

from __future__ import annotations

import math
import os
from copy import deepcopy
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import Dataset

from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.loader import BatchLoader
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.schedules import WarmupCosine
from tests.training.one_weight import Numbers, OneWeight

BATCHES, WINDOW = 8, 3
"""Batches of an epoch and of an accumulation window: 3, 3 and 2."""


class Keys(Dataset):
    """Items are their keys (epoch, index)."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return key


class KeyedNumbers(MultiViewDataModule):
    """Numbers that depend on (epoch, index), in the keyed order; an epoch has more of them than are used."""

    def train_dataset(self):
        return Keys(19)

    def eval_dataset(self, split):
        return Keys(4)

    def _loader(self, read, sampler):
        return BatchLoader(Keys(sampler.size), batch_size=sampler.batch_size, sampler=sampler, collate_fn=_numbers)


def _numbers(keys):
    return Numbers(torch.tensor([math.sin(1 + 3 * e + i) for e, i in keys]), [f"{e}:{i}" for e, i in keys])


class Noting(OneWeight):
    """Notes the samples that it is trained on."""

    def __init__(self):
        super().__init__(lr=0.01, lr_scheduler=WarmupCosine)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.sample_id)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.adapter.weight - batch.x).square().mean(), batch_size=len(batch.x))


class Notes(Logger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    name, version, save_dir = "notes", 0, None

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, {name: float(value) for name, value in metrics.items()}))

    def log_hyperparams(self, *_):
        pass


class Saver(Callback):
    """Write a checkpoint at each of the places in an epoch; keep the state at the end of the last epoch."""

    def __init__(self, folder, epoch):
        self.folder, self.epoch, self.places, self.end = folder, epoch, {}, None

    def save(self, trainer, place):
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking:
            path = self.folder / f"{len(self.places):02}_{place}.ckpt"
            trainer.save_checkpoint(path)
            self.places[path] = len(trainer.logger.lines)

    def on_train_epoch_start(self, trainer, pl_module):
        self.save(trainer, "epoch_start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.save(trainer, f"in_batch_{batch_idx + 1}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.save(trainer, f"after_batch_{batch_idx + 1}")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.save(trainer, f"in_validation_batch_{batch_idx + 1}")

    def on_validation_end(self, trainer, pl_module):
        self.save(trainer, "after_validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "epoch_end")
        parts = trainer._checkpoint_connector.dump_checkpoint()
        kept = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
        self.end = deepcopy({name: parts[name] for name in (*kept, "global_step", "epoch")})


def run(folder: Path, ckpt_path: Path | None = None, epoch: int = 1, **settings) -> tuple[Noting, Trainer, Saver]:
    """Train three epochs or `max_steps`; write the checkpoints of one epoch."""
    saver, module = Saver(folder, epoch), Noting()
    defaults = {"max_epochs": 3, "val_check_interval": 4, "accumulate_grad_batches": WINDOW}
    trainer = Trainer(
        default_root_dir=folder,
        logger=Notes(),
        log_every_n_steps=1,
        callbacks=[TrainedWeightsEMA(decay=0.5), saver],
        limit_train_batches=BATCHES,
        **{"accelerator": "cpu", "num_sanity_val_steps": 1, "use_distributed_sampler": False} | defaults | settings,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=KeyedNumbers(num_val=2), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer, saver


def is_same(one, other) -> bool:
    """Compare nested states bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other


def differences(whole: tuple, folder: Path, path: Path, **settings) -> list[str]:
    """Resume from a checkpoint of the whole run; return what differs from it."""
    (module, trainer, saver), (resumed, again, its) = whole, run(folder, path, epoch=-1, **settings)
    lines, logged = trainer.logger.lines, again.logger.lines
    found = [name for name in saver.end if not is_same(saver.end[name], its.end[name])]
    if resumed.seen != module.seen[len(module.seen) - len(resumed.seen) :]:
        found.append("samples")
    rest = len(lines) - saver.places[path] - ("after_batch" in path.stem)  # of this step, logged after the hook
    if logged != lines[len(lines) - len(logged) :] or len(logged) < rest:
        found.append("log")
    return found


def compare_on_rank(folder: Path) -> None:
    """One of two processes: compare resumed runs with the whole one, from all places within a window."""
    settings = {"devices": 2, "strategy": "ddp"}
    whole = run(folder, **settings)
    paths = [
        path for path in whole[2].places if path.stem.endswith(("after_batch_2", "in_batch_6", "after_validation"))
    ]
    found = {path.stem: differences(whole, folder / "again", path, **settings) for path in paths}
    (folder / f"rank{os.environ['LOCAL_RANK']}.txt").write_text(f"{found} {whole[2].end['state_dict']}")
