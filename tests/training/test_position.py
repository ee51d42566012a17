"""A run that is resumed from a checkpoint of any place ends as the uninterrupted one, bit for bit."""

from functools import partial

import pytest
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.forked import run as run_forked
from tests.training.any_place import BATCHES, WINDOW, compare_on_rank, differences, run
from tests.training.one_weight import OneWeight, numbers, quiet_trainer

ENDS = {
    "epochs": {},
    "steps": {"max_epochs": -1, "max_steps": 9},
    "validation between epochs": {"max_epochs": -1, "max_steps": 9, "val_check_interval": 5}
    | {"check_val_every_n_epoch": None},
    "no validation": {"limit_val_batches": 0},
}
FEW = ("steps", "validation between epochs", "no validation")
"""Ends that are tried from the places that matter to them."""


@pytest.mark.parametrize("ends", ENDS)
def test_every_place_of_an_epoch(tmp_path, ends):
    whole = run(tmp_path, **ENDS[ends])
    places = whole[2].places
    assert len(places) >= 2 * BATCHES + 2
    few = ("batch_5", "after_batch_8", "in_validation_batch_2", "epoch_end") if ends in FEW else ""
    chosen = [path for path in places if path.stem.endswith(few)]
    different = {path.stem: differences(whole, tmp_path / "again", path, **ENDS[ends]) for path in chosen}
    assert {place: found for place, found in different.items() if found} == {}


@pytest.mark.parametrize("ends", ["epochs", "steps"])
def test_a_run_that_is_resumed_twice(tmp_path, ends):
    """The counters of the first resume do not spoil the second."""
    (tmp_path / "first").mkdir()
    whole = run(tmp_path / "first", epoch=0, **ENDS[ends])
    for place in ("in_batch_5", "after_batch_8", "epoch_start"):
        path = next(path for path in whole[2].places if path.stem.endswith(place))
        folder = tmp_path / place
        folder.mkdir()
        resumed = run(folder, path, epoch=1, **ENDS[ends])
        for again in resumed[2].places:
            if again.stem.endswith(("after_batch_4", "after_batch_8")):
                assert differences(resumed, folder / "again", again, **ENDS[ends]) == [], (place, again.stem)
        assert resumed[0].seen == whole[0].seen[len(whole[0].seen) - len(resumed[0].seen) :]


def test_a_training_goes_on_in_an_epoch_that_max_steps_ended(tmp_path):
    """As if it had been meant to be longer from the start; the window's length divides no epoch."""
    short = {"max_epochs": -1, "max_steps": 5}
    longer = run(tmp_path, epoch=-1, max_epochs=-1, max_steps=9)
    path = next(path for path in run(tmp_path, **short)[2].places if path.stem.endswith("epoch_end"))
    resumed = run(tmp_path / "again", path, epoch=-1, max_epochs=-1, max_steps=9)[0]
    assert resumed.seen == longer[0].seen[BATCHES + 2 * WINDOW :]


def test_another_window_may_begin_where_the_checkpoint_goes_on(tmp_path):
    path = next(path for path in run(tmp_path)[2].places if path.stem.endswith("after_batch_7"))  # goes on after 6
    with pytest.raises(ValueError, match=r"accumulate_grad_batches must be 3, .* goes on after 6 batches .* got 4"):
        run(tmp_path / "again", path, accumulate_grad_batches=4)
    with pytest.warns(UserWarning, match=r"accumulate_grad_batches 3 -> 2"):
        resumed = run(tmp_path / "again", path, accumulate_grad_batches=2)[0]
    assert len(resumed.seen) == 2 + BATCHES


class Foreign(LightningDataModule):
    """Data with a place of their own, which nobody else can set."""

    def train_dataloader(self):
        return numbers(1, 2, 3, 4, 5, 6)

    def state_dict(self):
        return {"place": 1}

    def load_state_dict(self, state_dict):
        self.place = state_dict["place"]


def test_data_that_cannot_go_back_are_named(tmp_path):
    class Saving(OneWeight):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 4:
                self.trainer.save_checkpoint(tmp_path / "in_window.ckpt")

    settings = {"accumulate_grad_batches": 3, "max_epochs": 1}
    quiet_trainer(tmp_path, **settings).fit(Saving(), datamodule=Foreign())
    with pytest.warns(UserWarning, match=r"written 2 batches after an optimizer step\. Foreign cannot go back"):
        quiet_trainer(tmp_path, **settings).fit(
            OneWeight(), datamodule=Foreign(), ckpt_path=tmp_path / "in_window.ckpt", weights_only=True
        )


def test_a_schedule_that_follows_a_metric_goes_on_in_the_resumed_epoch(tmp_path):
    class Plateau(OneWeight):
        def __init__(self):
            super().__init__(lr=0.5, lr_interval="epoch", lr_scheduler=partial(ReduceLROnPlateau, patience=0))

        def configure_optimizers(self):
            built = super().configure_optimizers()
            built["lr_scheduler"] |= {"monitor": "train/loss"}
            return built

    def fit(**settings):
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
        trainer = quiet_trainer(tmp_path, callbacks=[saver], max_epochs=4)
        module = Plateau()
        trainer.fit(module, numbers(2, 2, 2), weights_only=True, **settings)
        return module.rates

    whole = fit()
    assert len(set(whole)) > 1
    assert fit(ckpt_path=tmp_path / "step=4.ckpt") == whole[4:]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_repeat_the_window_together(tmp_path):
    run_forked(tmp_path / "log", compare_on_rank, tmp_path, ranks=2)
    one, two = ((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert one == two
    assert one.count("[]") == one.count("': [") >= 4
