"""The progress bar, by what a terminal shows."""

import io

import pytest
from lightning.pytorch import LightningModule, Trainer
from rich import get_console, reconfigure
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from mvdiff.training.progress import TrainingProgressBar


class Plain(LightningModule):
    """The least that can be fitted."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[:, None].float()).square().mean()

    def validation_step(self, batch, batch_idx):
        self.layer(batch[:, None].float())

    def on_train_epoch_end(self):
        self.trainer.should_stop = self.trainer.max_epochs == self.trainer.max_steps == -1

    def test_step(self, batch, batch_idx):
        pass

    def on_test_epoch_end(self):
        for which, scored in (("generated", 3), ("reference", 2)):
            for _ in range(scored):
                self.trainer.progress_bar_callback.on_sample_scored(self.trainer, which, 3)

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=1e-4)


@pytest.fixture
def shown(tmp_path):
    """Fit or validate on 4 batches; return the bars as (description, count)."""
    console = get_console()
    before = vars(console).copy()

    def run(stage="fit", ckpt_path=None, **limits):
        screen = io.StringIO()
        bar = TrainingProgressBar(console_kwargs={"file": screen, "width": 200, "force_terminal": False})
        settings = {"default_root_dir": tmp_path, "logger": False, "accelerator": "cpu", "callbacks": bar}
        settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "enable_checkpointing": False}
        trainer = Trainer(**settings, **limits)
        data = DataLoader(list(range(4)))
        options = {"ckpt_path": ckpt_path} if ckpt_path else {}
        if stage == "fit":
            trainer.fit(Plain(), data, data if "val_check_interval" in limits else None, **options)
        else:
            getattr(trainer, stage)(Plain(), data, verbose=False)
        lines = [line.split() for line in screen.getvalue().splitlines() if "━" in line]
        counts = [
            next(word for word in reversed(words) if word.count("/") == 1 and "it" not in word) for words in lines
        ]
        return trainer, [(" ".join(words).split(" ━")[0], n) for words, n in zip(lines, counts, strict=True)]

    yield run
    reconfigure()
    vars(get_console()).update(before)


@pytest.mark.parametrize(
    ("limits", "bars"),
    [
        ({"max_steps": 6}, [("Training", "6/6")]),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, [("Training", "3/3")]),
        ({"max_epochs": 2}, [("Epoch 1/2", "4/4"), ("Epoch 2/2", "4/4")]),
        ({"max_epochs": 2, "max_steps": 6}, [("Epoch 1/2", "4/4"), ("Epoch 2/2", "2/4")]),
        ({"max_epochs": -1}, [("Epoch 1", "4/4")]),
    ],
)
def test_the_bar_counts_what_ends_the_training(shown, limits, bars):
    assert shown(**limits)[1] == bars


def test_validation_does_not_end_the_bar_of_steps(shown):
    limits = {"max_steps": 6, "val_check_interval": 2, "check_val_every_n_epoch": None}
    assert shown(**limits)[1][0] == ("Training", "6/6")


def test_a_resumed_training_goes_on_where_it_stood(shown, tmp_path):
    trainer, _ = shown(max_steps=6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert shown(max_steps=9, ckpt_path=tmp_path / "last.ckpt")[1] == [("Training", "9/9")]


def test_validation_by_itself(shown):
    assert shown("validate")[1] == [("Validation", "4/4")]


def test_scored_samples_have_bars_of_their_own(shown):
    assert shown("test")[1] == [("Testing", "4/4"), ("Scoring, generated", "3/3"), ("Scoring, reference", "2/3")]
