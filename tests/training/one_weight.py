"""One trained weight on numbers: the smallest training there is, for tests of steps, settings and checkpoints."""

from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mvdiff.training.trained_part import TrainedPartModule


@dataclass
class Numbers:
    """A batch: numbers [B] and the ids of their samples."""

    x: Tensor
    sample_id: list[str]


class OneWeight(TrainedPartModule):
    """Loss (w - x)^2, from w = 1; notes the rate of each step."""

    def __init__(self, lr=0.1, lr_scheduler=None, lr_interval="step", make=torch.optim.AdamW, **optimizer):
        super().__init__()
        self.adapter = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.adapter.weight)
        self.optimizer = partial(make, lr=lr, **optimizer)
        self.lr_scheduler, self.lr_interval, self.rates = lr_scheduler, lr_interval, []

    @property
    def weight(self) -> float:
        return self.adapter.weight.item()

    def training_step(self, batch, batch_idx):
        loss = (self.adapter.weight - batch.x).square().mean()
        self.log("train/loss", loss, batch_size=len(batch.x))
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def numbers(*values: float, **settings) -> DataLoader:
    """One sample per batch; sample i has the id "room<i>"."""
    return DataLoader(list(enumerate(values)), collate_fn=_batch, **settings)


def _batch(items) -> Numbers:
    return Numbers(torch.tensor([float(x) for _, x in items]), [f"room{i}" for i, _ in items])


def quiet_trainer(folder, **settings) -> Trainer:
    """A Trainer of three epochs on the CPU that writes nothing by itself."""
    settings = {"max_epochs": 3, "logger": False, "accelerator": "cpu", "num_sanity_val_steps": 0} | settings
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    saves = {"enable_checkpointing": any(hasattr(one, "best_model_path") for one in settings.get("callbacks", ()))}
    return Trainer(default_root_dir=folder, **quiet | saves | settings)
