"""Learning-rate schedules over the length of a run: against torch's own, and across interruptions."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR, StepLR

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.training.optimization import OptimizedModule
from mvdiff.training.schedules import WarmupCosine, run_length
from tests.training.tiny_depth import WallData

RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
RATE = 2e-4


class Line(OptimizedModule):
    """One weight; notes the rate of each step and the samples of each batch."""

    def __init__(self, lr_scheduler, lr_interval="step"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.optimizer = partial(torch.optim.AdamW, lr=RATE)
        self.lr_scheduler, self.lr_interval = lr_scheduler, lr_interval
        self.rates, self.samples = [], []

    def training_step(self, batch, batch_idx):
        self.samples.append((batch.epoch, batch.sample_index.tolist()))
        return (self.weight * batch.images.mean()).sum()

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.fixture
def data(tiny_folder):
    return lambda **settings: EquirectangularDataModule(tiny_folder / "data", rig=RIG, **{"num_val": 2} | settings)


def trainer(folder, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"logger": False, "accelerator": "cpu", "use_distributed_sampler": False, "limit_val_batches": 0}
    return Trainer(default_root_dir=folder, **quiet | settings)


def fitted(folder, data, schedule, interval="step", ckpt_path=None, **settings):
    module = Line(schedule, interval)
    trainer(folder, **settings).fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


def rates_of(make, steps, rate=RATE):
    """Rates in use at each of the steps."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("epochs", [1, 7, 10, 20])
def test_without_a_warm_up_it_is_torchs_cosine(epochs):
    ours = rates_of(partial(WarmupCosine, total_steps=epochs), epochs + 1)
    theirs = rates_of(partial(CosineAnnealingLR, T_max=epochs, eta_min=1e-7), epochs + 1)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours[-1] == 1e-7


def test_the_rate_stays_down_after_the_end():
    assert rates_of(partial(WarmupCosine, total_steps=4), 9)[4:] == [1e-7] * 5


@pytest.mark.parametrize(("steps", "share", "rising"), [(40, 0.25, 10), (100, 0.05, 5), (10, 0.1, 1)])
def test_a_warm_up_rises_in_equal_steps_to_the_cosine(steps, share, rising):
    rates = rates_of(partial(WarmupCosine, total_steps=steps, warm_up=share, final_lr=1e-6), steps)
    gaps = torch.tensor(rates[: rising + 1], dtype=torch.float64).diff(prepend=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(gaps, torch.full_like(gaps, RATE / (rising + 1)))
    cosine = rates_of(partial(CosineAnnealingLR, T_max=steps - rising, eta_min=1e-6), steps - rising)
    assert rates[rising:] == pytest.approx(cosine, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"total_steps": 10, "warm_up": 0.04}, "warm_up must be at least one step of the schedule; got 0.04 of 10"),
        ({"total_steps": 10, "warm_up": 1.0}, r"warm_up must lie in \[0, 1\); got 1.0"),
        ({"total_steps": 10, "warm_up": -0.1}, r"warm_up must lie in \[0, 1\); got -0.1"),
        ({"total_steps": 0}, "total_steps must be at least 1; got 0"),
        ({}, "total_steps must be at least 1; got None"),
    ],
)
def test_wrong_schedules(settings, text):
    with pytest.raises(ValueError, match=text):
        rates_of(partial(WarmupCosine, **settings), 1)


# The length of a run: 6 training samples


@pytest.mark.parametrize(
    ("settings", "batch_size"),
    [
        ({"max_epochs": 2}, 1),
        ({"max_epochs": 3}, 4),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 1),  # an epoch is filled up to 8 samples
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 2),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 1),
        ({"max_epochs": 3, "limit_train_batches": 5, "accumulate_grad_batches": 2}, 1),
        ({"max_epochs": 3, "limit_train_batches": 100}, 1),
        ({"max_epochs": 3, "max_steps": 7}, 1),
        ({"max_epochs": 1, "max_steps": 7}, 1),
        ({"max_steps": 15}, 1),
        ({"max_epochs": 2, "max_time": "00:01:00:00"}, 1),
        ({"fast_dev_run": True}, 1),
    ],
)
def test_the_length_is_that_of_the_run(data, tmp_path, settings, batch_size):
    for foreign in (False, True):
        module, source = Line(None), data(batch_size=batch_size)
        lengths = {}

        def build(optimizer, lengths=lengths, module=module):
            lengths.update({interval: run_length(module.trainer, interval) for interval in ("step", "epoch")})
            return StepLR(optimizer, 1)

        module.lr_scheduler = build
        run = trainer(tmp_path, **settings)
        if foreign:
            source.trainer = run
            run.fit(module, train_dataloaders=source.train_dataloader())
        else:
            run.fit(module, datamodule=source)
        assert lengths == {"step": len(module.rates), "epoch": module.samples[-1][0] + 1}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_counts_the_batches_of_its_loader(data, world_size):
    for rank in range(world_size):
        source = data(batch_size=2)
        source.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, accumulate_grad_batches=2)
        assert source.num_train_batches() == len(source.train_dataloader())


def test_a_run_without_an_end_has_no_length(data, tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.max_epochs or trainer\.max_steps must be set.*; got neither"):
        fitted(tmp_path, data(), WarmupCosine, max_time="00:00:00:10")
    timed = fitted(tmp_path, data(), partial(StepLR, step_size=1), max_time="00:00:00:00")
    assert timed.rates in ([], [RATE])


# Schedules in a run


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_cosine_spans_the_run(data, tmp_path, interval):
    rates = fitted(tmp_path, data(), WarmupCosine, interval, max_epochs=3).rates
    spanned = rates_of(partial(CosineAnnealingLR, T_max=18 if interval == "step" else 3, eta_min=1e-7), 18)
    expected = spanned if interval == "step" else [rate for rate in spanned[:3] for _ in range(6)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("limits", "length"),
    [
        ({"max_epochs": 10, "max_steps": 9}, 9),
        ({"max_steps": 9}, 9),
        ({"max_epochs": 2, "max_steps": 11}, 11),
        ({"max_epochs": 2, "max_steps": 12}, None),  # the epochs' own end
        ({"max_epochs": 2, "max_steps": 99}, None),
    ],
)
@pytest.mark.parametrize("schedule", [WarmupCosine, partial(OneCycleLR, max_lr=1e-3)])
def test_a_schedule_per_epoch_follows_steps_that_end_the_run(data, tmp_path, schedule, limits, length):
    module = fitted(tmp_path, data(), schedule, "epoch", **limits)
    spanned = rates_of(partial(schedule, total_steps=length or 2), length or 2)
    expected = spanned if length else [rate for rate in spanned for _ in range(6)]
    assert module.rates == expected
    assert module.lr_schedulers().total_steps == (length or 2)


def test_other_schedules_per_epoch_stay_per_epoch(data, tmp_path):
    rates = fitted(tmp_path, data(), partial(StepLR, step_size=1, gamma=0.5), "epoch", max_steps=9).rates
    assert rates == [RATE] * 6 + [RATE / 2] * 3


@pytest.mark.parametrize("given", [{}, {"total_steps": None}])
def test_torchs_one_cycle_is_given_the_length(data, tmp_path, given):
    schedule = partial(OneCycleLR, max_lr=1e-3, pct_start=0.1)
    rates = fitted(tmp_path, data(), partial(schedule, **given), max_steps=9).rates
    assert rates == rates_of(partial(schedule, total_steps=9), 9)  # bit for bit


@pytest.mark.parametrize("given", [{}, {"total_steps": None}])
def test_torchs_one_cycle_keeps_its_own_epochs(data, tmp_path, given):
    schedule = partial(OneCycleLR, max_lr=1e-3, epochs=3, steps_per_epoch=7, **given)
    with pytest.warns(UserWarning, match=r"got 21 for a run of 18 steps"):
        rates = fitted(tmp_path, data(), schedule, max_epochs=3).rates
    assert rates == rates_of(partial(OneCycleLR, max_lr=1e-3, total_steps=21), 18)
    with pytest.raises(ValueError, match=r"epochs"):  # torch's own error
        fitted(tmp_path, data(), partial(OneCycleLR, max_lr=1e-3, epochs=3, **given), max_epochs=3)


@pytest.mark.parametrize(
    ("schedule", "interval", "text"),
    [
        (partial(OneCycleLR, max_lr=1, epochs=3, steps_per_epoch=5), "step", r"got 15 for a run of 18 steps"),
        (partial(CosineAnnealingLR, T_max=2), "epoch", r"T_max must be the run's length; got 2 for a run of 3 epochs"),
        (partial(CosineAnnealingLR, T_max=17), "step", r"T_max must be the run's length; got 17 for a run of 18 steps"),
        (partial(OneCycleLR, max_lr=1, total_steps=10), "step", r"total_steps must .*; got 10 for a run of 18 steps"),
    ],
)
def test_a_schedule_that_ends_before_the_run_is_refused(data, tmp_path, schedule, interval, text):
    with pytest.raises(ValueError, match=text):
        fitted(tmp_path, data(), schedule, interval, max_epochs=3)


def test_a_schedule_longer_than_the_run_is_a_warning(data, tmp_path):
    with pytest.warns(UserWarning, match=r"T_max: got 4 for a run of 3 epochs"):
        fitted(tmp_path, data(), partial(CosineAnnealingLR, T_max=4), "epoch", max_epochs=3)


# Interruption


def interrupted(folder, data, schedule, interval, steps, **longer):
    """Fit 18 steps with a checkpoint after `steps`; go on from it, with other limits if asked."""
    keep = {"filename": "{step}", "auto_insert_metric_name": False, "save_top_k": -1}
    saver = ModelCheckpoint(folder, every_n_train_steps=steps, **keep)
    saving = {"callbacks": [saver], "enable_checkpointing": True}
    whole = fitted(folder, data(), schedule, interval, max_epochs=3, **saving)
    path = folder / f"{steps}.ckpt"
    resumed = fitted(folder, data(), schedule, interval, path, **{"max_epochs": 3} | longer)
    return whole, resumed


SCHEDULES = {
    "cosine": WarmupCosine,
    "warm-up": partial(WarmupCosine, warm_up=0.34),
    "one cycle": partial(OneCycleLR, max_lr=1e-3),
    "torch's cosine": partial(CosineAnnealingLR, T_max=18),
}


@pytest.mark.parametrize("steps", [2, 5, 6, 8])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_ends_bit_for_bit(data, tmp_path, name, interval, steps):
    whole, resumed = interrupted(tmp_path, data, SCHEDULES[name], interval, steps)
    assert resumed.rates == whole.rates[steps:]
    assert resumed.samples == whole.samples[steps:]  # counting the epoch leaves the loader's place alone
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", ["cosine", "warm-up", "one cycle"])
def test_a_run_resumed_for_longer_follows_the_longer_curve(data, tmp_path, name, interval):
    schedule = SCHEDULES[name]
    _, resumed = interrupted(tmp_path, data, schedule, interval, 8, max_epochs=6)
    longer = fitted(tmp_path, data(), schedule, interval, max_epochs=6)
    skip = 0 if name != "one cycle" else 1 if interval == "step" else 4  # torch's moves at its next step only
    assert resumed.rates[skip:] == longer.rates[8 + skip :]


def test_a_run_resumed_for_more_steps_follows_the_longer_curve(data, tmp_path):
    """The schedule is one per epoch, but `max_steps` ends both runs."""
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="{step}", auto_insert_metric_name=False)
    saving = {"callbacks": [saver], "enable_checkpointing": True}
    fitted(tmp_path, data(), WarmupCosine, "epoch", max_epochs=9, max_steps=5, **saving)
    resumed = fitted(tmp_path, data(), WarmupCosine, "epoch", tmp_path / "4.ckpt", max_epochs=9, max_steps=8)
    assert resumed.rates == rates_of(partial(WarmupCosine, total_steps=8), 8)[4:]
    with pytest.raises(ValueError, match=r"must count steps, .*; got epochs.*trainer\.max_steps"):
        fitted(tmp_path, data(), WarmupCosine, "epoch", tmp_path / "4.ckpt", max_epochs=9)


@pytest.mark.parametrize(("kind", "name"), [(CosineAnnealingLR, "T_max"), (PolynomialLR, "total_iters")])
def test_torchs_schedules_of_a_length_are_not_resumed_for_longer(data, tmp_path, kind, name):
    saver = ModelCheckpoint(tmp_path, filename="last")
    short, long = (partial(kind, **{name: epochs}) for epochs in (2, 4))
    saving = {"callbacks": [saver], "enable_checkpointing": True}
    trained = fitted(tmp_path, data(), short, "epoch", max_epochs=2, **saving)
    assert len(trained.rates) == 12
    with pytest.raises(ValueError, match=rf"{name} must be 2, .*ckpt_path; got 4.*WarmupCosine"):
        fitted(tmp_path, data(), long, "epoch", tmp_path / "last.ckpt", max_epochs=4)
    fresh = Line(long, "epoch")  # the weights alone start a run of any length
    fresh.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    trainer(tmp_path, max_epochs=4).fit(fresh, datamodule=data())
    assert len(fresh.rates) == 24


def test_data_of_other_kinds_is_counted_by_lightning(tmp_path):
    rates = fitted(tmp_path, WallData(), WarmupCosine, max_epochs=2).rates
    assert rates == pytest.approx(rates_of(partial(CosineAnnealingLR, T_max=8, eta_min=1e-7), 8), rel=1e-12)


class Numbers:
    """A loader of its own: the numbers 0..5 as batches, and a state."""

    def __init__(self):
        self.place = 0

    def __len__(self):
        return 6

    def __iter__(self):
        while self.place < 6:
            self.place += 1
            yield torch.tensor(float(self.place - 1))
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class Counted(Line):
    def training_step(self, batch, batch_idx):
        self.samples.append(batch.item())
        return (self.weight * batch).sum()


def test_counting_leaves_the_place_of_any_loader_alone(tmp_path):
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="{step}", auto_insert_metric_name=False)
    whole, resumed = Counted(WarmupCosine), Counted(WarmupCosine)
    trainer(tmp_path, max_epochs=1, callbacks=[saver], enable_checkpointing=True).fit(whole, Numbers())
    trainer(tmp_path, max_epochs=1).fit(resumed, Numbers(), ckpt_path=tmp_path / "4.ckpt", weights_only=True)
    assert (whole.samples, resumed.samples) == ([0, 1, 2, 3, 4, 5], [4, 5])
    assert resumed.rates == whole.rates[4:]
