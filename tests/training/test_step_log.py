"""What is logged of an optimizer step, however its samples are split into batches."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD

from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.step_log import QUARTERS, StepMeans, add_quarters
from tests.training.any_place import Notes
from tests.training.one_weight import OneWeight, numbers, quiet_trainer


@given(
    losses=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=12),
    cut=st.integers(0, 12),
    timesteps=st.lists(st.integers(0, 999), min_size=12, max_size=12),
)
def test_quarters_are_means_over_the_samples_in_them(losses, cut, timesteps):
    timesteps = timesteps[: len(losses)]
    means = StepMeans()
    for part in (slice(None, cut), slice(cut, None)):  # two batches, of which one may be empty
        values, steps = torch.tensor(losses[part]), torch.tensor(timesteps[part], dtype=torch.long)
        means.add("train/loss", values)
        add_quarters(means, values, steps, 1000)
    found = means.take()
    expected = {"train/loss": sum(losses) / len(losses)}
    for number, name in enumerate(QUARTERS):
        inside = [x for x, t in zip(losses, timesteps, strict=True) if 250 * number <= t < 250 * (number + 1)]
        expected |= {name: sum(inside) / len(inside)} if inside else {}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert means.take() == {}


class Meaning(OneWeight):
    """Notes its losses; numbers below zero belong to the first quarter."""

    def __init__(self, **options):
        super().__init__(make=SGD, **options)

    def training_step(self, batch, batch_idx):
        losses = (self.adapter.weight - batch.x).square().flatten()
        self.step_means.add("train/loss", losses)
        add_quarters(self.step_means, losses, torch.where(batch.x < 0, 0, 3), 4)
        return losses.mean()


def logged(folder, batches, module=None, callbacks=(), **settings):
    """Fit an epoch; return what each step logged, by step."""
    notes = Notes()
    trainer = quiet_trainer(
        folder, logger=notes, log_every_n_steps=1, max_epochs=1, callbacks=list(callbacks), **settings
    )
    trainer.fit(module or Meaning(), batches)
    lines = {}
    for step, line in notes.lines:
        assert not lines.get(step, {}).keys() & line.keys(), "logged twice"
        lines.setdefault(step, {}).update(line)
    return [lines[step] for step in sorted(lines)]


def test_a_step_of_two_batches_logs_what_one_batch_does(tmp_path):
    values = (1.0, 2.0, -3.0, 5.0, 4.0, 4.0, 2.0, 6.0)
    whole = logged(tmp_path, numbers(*values, batch_size=4))
    halves = logged(tmp_path, numbers(*values, batch_size=2), accumulate_grad_batches=2)
    assert len(whole) == len(halves) == 2
    for one, other in zip(whole, halves, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    first, second = whole
    assert first["train/loss"] == pytest.approx((0 + 1 + 16 + 16) / 4)
    assert (first["train/loss_q1"], first["train/loss_q4"]) == pytest.approx((16, 17 / 3))
    assert not {"train/loss_q1", "train/loss_q2", "train/loss_q3"} & second.keys(), "of quarters without a sample"
    assert {"train/loss_q2", "train/loss_q3"}.isdisjoint(first)


def test_the_norm_is_that_before_clipping_and_the_rate_that_of_the_step(tmp_path):
    halved = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    lines = logged(tmp_path, numbers(3.0, 3.0), Meaning(lr=0.1, lr_scheduler=halved), gradient_clip_val=1.0)
    assert [line["train/lr"] for line in lines] == pytest.approx([0.1, 0.05])
    assert [line["train/grad_norm"] for line in lines] == pytest.approx([2 * 2.0, 2 * 1.9])  # 1 + 0.1 x a norm of 1


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_decay_is_the_one_the_average_takes(tmp_path, warm_up):
    average = TrainedWeightsEMA(decay=0.2, warm_up=warm_up)
    weights = []

    class Watched(Meaning):
        def on_train_batch_end(self, *_):
            (averaged,) = average._average_model.module.parameters()
            weights.append((self.weight, averaged.item()))

    lines = logged(tmp_path, numbers(2.0, 3.0, 5.0, 7.0), Watched(), [average])
    decays = [line["train/ema_decay"] for line in lines]
    for (_, before), (now, after), decay in zip(weights, weights[1:], decays[1:], strict=False):
        assert after == pytest.approx(decay * before + (1 - decay) * now, rel=1e-5)
    assert decays[0] == 0
    assert decays[1] == pytest.approx(2 / 11 if warm_up else 0.2)
    assert math.isclose(weights[0][0], weights[0][1])
