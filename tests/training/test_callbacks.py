import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from mvdiff.training.callbacks import SaveModelFolder
from mvdiff.training.trained_part import TrainedPartModule


class Scored(TrainedPartModule):
    """Counts its optimizer steps in one weight; epoch e scores `scores[e]`; notes what is written as a model folder."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.adapter, self.written = scores, nn.Linear(1, 1, bias=False), None
        nn.init.zeros_(self.adapter.weight)

    def training_step(self, x, index):
        return -self.adapter.weight.sum()

    def validation_step(self, x, index):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.adapter.parameters(), lr=1.0)

    def save_model_folder(self, folder, state_dict=None, training=None):
        self.written = state_dict["adapter.weight"].item()


def fit(folder, scores, ckpt_path=None) -> float:
    """Train one epoch per score in a folder of its own; return the epoch whose weights were written, from 1."""
    loader, module = DataLoader(torch.ones(1, 1)), Scored(scores)
    best = ModelCheckpoint(folder, monitor="score", mode="max", filename="best-{epoch}")
    last = ModelCheckpoint(folder, filename="last")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=len(scores),
        callbacks=[best, last, SaveModelFolder()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return module.written


@pytest.mark.parametrize(("after", "best"), [([3, 2], 2), ([3, 9], 4), ([6, 2], 3)])
def test_the_best_of_a_resumed_run_may_lie_before_the_resume(tmp_path, after, best):
    assert fit(tmp_path / "version_0", [1, 5]) == 2
    assert fit(tmp_path / "version_1", [1, 5, *after], tmp_path / "version_0" / "last.ckpt") == best
    assert (tmp_path / "version_0" / "best-epoch=1.ckpt").is_file()  # another run's file is left alone
    again = fit(tmp_path / "version_2", [1, 5, *after, 4], tmp_path / "version_1" / "last.ckpt")
    assert again == best  # the second resume still knows the first run


def test_a_best_checkpoint_that_is_gone_is_forgotten(tmp_path):
    fit(tmp_path / "version_0", [1, 5])
    (tmp_path / "version_0" / "best-epoch=1.ckpt").unlink()
    assert fit(tmp_path / "version_1", [1, 5, 3, 2], tmp_path / "version_0" / "last.ckpt") == 3
