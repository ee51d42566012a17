"""One rank of a small training of a real model, which notes its samples and may kill itself."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.training.multi_view import MultiViewModule
from tests.training.grouped import grouped

STEPS, GLOBAL_BATCH = 7, 2
"""Eight samples are an epoch of four steps."""
EVERY = 2
"""Steps between checkpoints."""
RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
DATA = {"num_val": 0, "seed": 4, "shuffle_block": 2, "mixed_blocks": 2}


PLACES = ("on_train_batch_start", "on_after_backward", "on_before_optimizer_step")
"""Hooks at the start of a step and within it, in which a run may be killed."""


class Notes(Callback):
    """Write the step, the loss and the sample ids of each batch to a file; kill the process in a hook of a step."""

    def __init__(self, path: Path, kill_at: int | None, kill_in: str) -> None:
        self.file, self.kill_at = path.open("a", buffering=1), kill_at
        setattr(self, kill_in, self.kill_when_due)

    def kill_when_due(self, trainer, *_):
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        print(trainer.global_step, batch.epoch, outputs["loss"].item(), *batch.sample_id, file=self.file)


def train(
    folder: Path,
    base: Path,
    root: Path | str,
    devices: int,
    rank: int,
    num_workers: int,
    ckpt_path: Path | None = None,
    kill_at: int | None = None,
    kill_in: str = PLACES[0],
) -> None:
    """Train as one of `devices` processes; rank 0 writes checkpoints and the final `weights.pt` to `folder`.

    After `kill_at` steps the process is killed in the hook `kill_in`.
    """
    torch.set_num_threads(1)
    data = EquirectangularDataModule(root, RIG, batch_size=GLOBAL_BATCH // devices, num_workers=num_workers, **DATA)
    settings = {"head_dim": 8, "num_inference_steps": 2, "num_validation_samples": 0, "text_dropout": 0.5}
    module = MultiViewModule(base=str(base), **grouped(**settings), optimizer=partial(SGD, lr=0.1, momentum=0.9))
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=EVERY, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS,
        callbacks=[Notes(folder / f"rank{rank}.txt", kill_at, kill_in), saver],
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    if rank == 0:
        torch.save(module.adapter.state_dict(), folder / "weights.pt")
