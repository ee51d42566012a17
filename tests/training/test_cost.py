"""The cost of a training: one entry per optimizer step, also across a resume."""

import json
import time

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mvdiff.training.cost import FILE, TrainingCost
from tests.training.one_weight import OneWeight, numbers, quiet_trainer

MEGABYTES = 200


class Slow(OneWeight):
    """Waits in every third batch, and holds much memory in the last."""

    def training_step(self, batch, batch_idx):
        time.sleep(0.2 if batch_idx % 3 == 2 else 0.02)
        if batch_idx == 5:
            torch.ones(MEGABYTES * 250_000).sum()  # float32: 10^6 bytes each
        return super().training_step(batch, batch_idx)


def fit(folder, module, ckpt_path=None, callbacks=(), **settings):
    callbacks = [TrainingCost(), *callbacks]
    trainer = quiet_trainer(folder, callbacks=callbacks, **settings)
    trainer.fit(module, numbers(*[2.0] * 6), ckpt_path=ckpt_path, weights_only=True)
    return json.loads((folder / FILE).read_text())


def test_a_step_takes_the_median_time_and_memory_is_the_peak(tmp_path):
    calm = fit(tmp_path / "a", OneWeight(), max_epochs=1)
    cost = fit(tmp_path / "b", Slow(), max_epochs=1)
    assert cost["num_steps"] == 6
    assert 0.02 < cost["seconds_per_step"] < 0.15  # two of six steps take longer
    assert cost["cpu_seconds_per_step"] < cost["seconds_per_step"]
    assert cost["peak_memory_bytes"] > calm["peak_memory_bytes"] + 0.8 * MEGABYTES * 10**6


@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_before_a_resume_count(tmp_path, accumulated):
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    how = {"accumulate_grad_batches": accumulated, "max_epochs": 2}
    whole = fit(tmp_path / "whole", OneWeight(), callbacks=[saver], **how)
    resumed = fit(tmp_path / "resumed", OneWeight(), ckpt_path=tmp_path / "step=2.ckpt", **how)
    assert whole["num_steps"] == resumed["num_steps"] == 12 // accumulated
    assert (
        resumed["peak_memory_bytes"]
        >= torch.load(tmp_path / "step=2.ckpt", weights_only=True)["callbacks"]["TrainingCost"]["peak"]
    )
