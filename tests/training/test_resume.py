"""Settings of a resumed run: what is typed is used, or refused with both values."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau, StepLR

from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.schedules import WarmupCosine
from tests.training.one_weight import OneWeight, numbers, quiet_trainer

STEPS = 6
"""Optimizer steps of an epoch."""


def fit(folder, module, ckpt_path=None, callbacks=(), **settings):
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, numbers(*[2.0] * STEPS), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def saved(folder, module, at=3, callbacks=(), **settings):
    """Fit, and return the checkpoint of step `at`."""
    saver = ModelCheckpoint(folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")
    fit(folder, module, callbacks=[*callbacks, saver], **settings)
    return folder / f"step={at}.ckpt"


def group_of(module):
    return module.trainer.optimizers[0].param_groups[0]


def cosine(steps, lr, **settings):
    """Rates of a whole run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule, rates = WarmupCosine(optimizer, total_steps=steps, **settings), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("make", "before", "now"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.01}, {"weight_decay": 0.3}),
        (torch.optim.AdamW, {"betas": (0.9, 0.99)}, {"betas": (0.5, 0.9)}),
        (torch.optim.AdamW, {"eps": 1e-8}, {"eps": 1e-3}),
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.1}),
        (torch.optim.AdamW, {"lr": 0.1}, {"lr": 0.01}),
    ],
)
def test_the_optimizers_settings_are_those_typed(tmp_path, make, before, now):
    path = saved(tmp_path, OneWeight(make=make, **before))
    ((name, value),), ((_, old),) = now.items(), before.items()
    module = OneWeight(make=make, **now)
    with pytest.warns(UserWarning) as warned:  # noqa: PT030
        fit(tmp_path, module, path)
    assert group_of(module)[name] == value
    (text,) = [str(one.message) for one in warned if "with other settings" in str(one.message)]
    assert (
        text
        == f"ckpt_path is resumed at step 3 with other settings: model.optimizer.init_args.{name} {old} -> {value}."
    )
    state = next(iter(module.trainer.optimizers[0].state.values()))
    assert "step" not in state or state["step"] == 3 * STEPS  # its moments go on
    assert module.changes == [f"step 3: model.optimizer.init_args.{name} {old} -> {value}"]


def test_the_same_settings_change_nothing_and_say_nothing(tmp_path, recwarn):
    whole = OneWeight(weight_decay=0.2)
    path = saved(tmp_path, whole)
    resumed = OneWeight(weight_decay=0.2)
    fit(tmp_path, resumed, path)
    assert resumed.weight == whole.weight
    assert resumed.changes == []
    assert not [one for one in recwarn if "with other settings" in str(one.message)]


@pytest.mark.parametrize(
    ("now", "curve"),
    [
        ({"lr": 0.01}, {"lr": 0.01}),
        ({"lr": 0.1, "lr_scheduler": partial(WarmupCosine, warm_up=0.5)}, {"lr": 0.1, "warm_up": 0.5}),
        ({"lr": 0.1, "lr_scheduler": partial(WarmupCosine, final_lr=0.05)}, {"lr": 0.1, "final_lr": 0.05}),
    ],
)
def test_the_cosine_has_the_rates_typed(tmp_path, now, curve):
    path = saved(tmp_path, OneWeight(lr_scheduler=WarmupCosine))
    module = OneWeight(**{"lr_scheduler": WarmupCosine} | now)
    fit(tmp_path, module, path)
    assert module.rates == cosine(3 * STEPS, **curve)[3:]


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("before", [None, partial(StepLR, step_size=2)])
def test_a_cosine_follows_other_schedules_at_its_place(tmp_path, before, interval):
    path = saved(tmp_path, OneWeight(lr_scheduler=before, lr_interval=interval), at=8)
    module = OneWeight(lr_scheduler=WarmupCosine, lr_interval=interval)
    fit(tmp_path, module, path)
    epochs = [rate for rate in cosine(3, 0.1) for _ in range(STEPS)]
    assert module.rates == (cosine(3 * STEPS, 0.1) if interval == "step" else epochs)[8:]


@pytest.mark.parametrize("before", [WarmupCosine, partial(StepLR, step_size=2), partial(OneCycleLR, max_lr=0.3)])
def test_without_a_schedule_the_rate_is_that_typed(tmp_path, before):
    path = saved(tmp_path, OneWeight(lr_scheduler=before))
    module = OneWeight(lr=0.02)
    fit(tmp_path, module, path)
    assert set(module.rates) == {0.02}


def test_one_cycle_has_the_rates_typed(tmp_path):
    path = saved(tmp_path, OneWeight(lr_scheduler=partial(OneCycleLR, max_lr=0.3)))
    now = partial(OneCycleLR, max_lr=0.7, pct_start=0.1)
    module, whole = (OneWeight(lr_scheduler=now, betas=(0.9, 0.5)) for _ in range(2))
    with pytest.warns(UserWarning, match=r"max_lr 0\.3 -> 0\.7"):
        fit(tmp_path, module, path)
    fit(tmp_path, whole)
    assert module.rates == whole.rates[3:]
    assert group_of(module)["betas"] == pytest.approx(group_of(whole)["betas"])


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (
            {"lr_scheduler": partial(StepLR, step_size=2)},
            {"lr": 0.5},
            r"optimizer\.init_args\.lr must be 0\.1, .* 0\.5",
        ),
        ({"lr_scheduler": partial(StepLR, step_size=2)}, {"gamma": 0.5}, r"gamma must be 0\.1, as in ckpt_path.* 0\.5"),
        (
            {"lr_scheduler": partial(StepLR, step_size=2)},
            {"step_size": 3},
            r"step_size must be 2, .*got 3\. .*WarmupCos",
        ),
        (
            {"lr_scheduler": partial(CyclicLR, base_lr=0.1, max_lr=0.2, cycle_momentum=False)},
            {"max_lr": 0.4},
            r"max_lr must be \[0\.2\], .* got \[0\.4\]",
        ),
        (
            {"lr_scheduler": partial(StepLR, step_size=2)},
            {"lr_scheduler": partial(OneCycleLR, max_lr=1.0)},
            r"model\.lr_scheduler must be StepLR, as in ckpt_path; got OneCycleLR",
        ),
        ({}, {"lr_scheduler": partial(StepLR, step_size=2)}, r"lr_scheduler must be null, as in ckpt_path; got StepLR"),
        ({}, {"make": torch.optim.SGD}, r"model\.optimizer must be AdamW, as in ckpt_path; got SGD"),
    ],
)
def test_what_cannot_follow_is_refused(tmp_path, before, now, text):
    path = saved(tmp_path, OneWeight(**before))
    scheduled = {name: value for name, value in now.items() if name in ("gamma", "step_size", "max_lr")}
    if scheduled:
        now = {"lr_scheduler": partial(before["lr_scheduler"], **scheduled)}
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, OneWeight(**before | now), path)


def test_a_plateau_keeps_its_rate(tmp_path):
    """Its rate depends on what was measured: another one is refused, the same goes on."""

    class Plateau(OneWeight):
        def configure_optimizers(self):
            built = super().configure_optimizers()
            built["lr_scheduler"] |= {"monitor": "train/loss"}
            return built

    schedule = partial(ReduceLROnPlateau, factor=0.5, patience=0)
    path = saved(tmp_path, Plateau(lr_scheduler=schedule))
    fit(tmp_path, Plateau(lr_scheduler=schedule), path)
    with pytest.raises(ValueError, match=r"init_args\.lr must be 0\.1, .* got 0\.2"):
        fit(tmp_path, Plateau(lr=0.2, lr_scheduler=schedule), path)


# The run


def test_fewer_steps_than_the_checkpoint_has_are_refused(tmp_path):
    path = saved(tmp_path, OneWeight(), max_steps=4)
    with pytest.raises(ValueError, match=r"trainer\.max_steps must be at least 3, the steps of ckpt_path; got 2"):
        fit(tmp_path, OneWeight(), path, max_steps=2)
    assert fit(tmp_path, OneWeight(), path, max_steps=5).global_step == 5


def test_accumulation_changes_between_steps_only(tmp_path):
    path = saved(tmp_path, OneWeight(), at=2, accumulate_grad_batches=2)  # after 4 batches
    text = r"accumulate_grad_batches must be 2, .* goes on after 4 batches of an epoch; got 3\. .*batch_size x devices"
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, OneWeight(), path, accumulate_grad_batches=3)
    with pytest.warns(UserWarning, match=r"trainer\.accumulate_grad_batches 2 -> 4"):
        trainer = fit(tmp_path, OneWeight(), path, accumulate_grad_batches=4, max_epochs=1)
    assert trainer.global_step == 3  # the last two batches
    end = saved(tmp_path / "end", OneWeight(), at=3, accumulate_grad_batches=2, max_epochs=1)
    assert fit(tmp_path, OneWeight(), end, accumulate_grad_batches=3, max_epochs=2).global_step == 5


class Validated(OneWeight):
    def validation_step(self, batch, batch_idx):
        pass


def averaged_weights(path):
    checkpoint = torch.load(path, weights_only=True)
    return [checkpoint[name]["adapter.weight"].item() for name in ("state_dict", "current_model_state")]


def test_without_the_average_the_weights_go_on_that_were_trained(tmp_path):
    whole = OneWeight()
    path = saved(tmp_path, OneWeight(), callbacks=[TrainedWeightsEMA(decay=0.9)])
    assert len(set(averaged_weights(path))) == 2
    fit(tmp_path, whole)
    plain = Validated()
    with pytest.warns(UserWarning, match=r"average of the weights TrainedWeightsEMA -> None"):
        fit(tmp_path, plain, path)
    assert plain.weight == whole.weight
    assert plain.trainer.validate(plain, numbers(1.0), ckpt_path=path, weights_only=True, verbose=False) == [{}]
    assert plain.weight == averaged_weights(path)[0]  # without training, a checkpoint is its average


def test_the_average_has_the_decay_typed(tmp_path):
    path = saved(tmp_path, OneWeight(), callbacks=[TrainedWeightsEMA(decay=0.9)])
    average, current = averaged_weights(path)
    module, rest = OneWeight(), []
    module.on_train_batch_end = lambda *_: rest.append(module.weight)
    with pytest.warns(UserWarning, match=r"decay of the average 0\.9 -> 0\.2"):
        fit(tmp_path, module, path, callbacks=[TrainedWeightsEMA(decay=0.2)])
    for weight in rest:
        average = 0.2 * average + 0.8 * weight
    assert module.weight == pytest.approx(average, rel=1e-5)
    assert not math.isclose(module.weight, current)


def test_a_second_resume_knows_the_changes_of_the_first(tmp_path):
    path = saved(tmp_path, OneWeight())
    second = saved(tmp_path / "second", OneWeight(lr=0.2), at=6, ckpt_path=path)
    module = OneWeight(lr=0.3)
    fit(tmp_path, module, second)
    name = "model.optimizer.init_args.lr"
    assert module.changes == [f"step 3: {name} 0.1 -> 0.2", f"step 6: {name} 0.2 -> 0.3"]
