"""Losses, gradients and weights that are not finite: the step is not made, and nothing of it is written."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing.spawn import start_processes

from mvdiff.models.finite import check_finite, first_not_finite
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.nonfinite import NonFiniteGuard
from tests.training.one_weight import OneWeight, numbers, quiet_trainer

NAN, INF = float("nan"), float("inf")


def fitted(folder, values, module=None, **settings):
    module = module or OneWeight()
    trainer = quiet_trainer(folder, **settings)
    trainer.fit(module, numbers(*values))
    return trainer, module


@pytest.mark.parametrize(("wrong", "accumulate", "step"), [(NAN, 1, 4), (INF, 2, 2), (NAN, 3, 2)])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, wrong, accumulate, step):
    module = OneWeight()
    with pytest.raises(FloatingPointError, match=rf"loss is not finite at optimizer step {step}; samples: room3\."):
        fitted(tmp_path, [2, 2, 2, wrong, 2, 2], module, accumulate_grad_batches=accumulate)
    _, before = fitted(tmp_path, [2] * (step - 1) * accumulate, max_epochs=1, accumulate_grad_batches=accumulate)
    assert module.weight == before.weight  # as it was after the step before


def test_a_gradient_that_is_not_finite_is_named_with_the_samples_of_its_step(tmp_path):
    class Root(OneWeight):
        def training_step(self, batch, batch_idx):
            return (self.adapter.weight * 0 * batch.x).sqrt().sum() + 1  # finite; its gradient is 0 * infinity

    with pytest.raises(
        FloatingPointError, match=r"gradient of adapter\.weight is not .* step 1; samples: room0, room1\."
    ):
        fitted(tmp_path, [2] * 4, Root(), accumulate_grad_batches=2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_skipped_steps_are_counted_and_change_nothing(tmp_path, accumulate):
    skipping = OneWeight()
    skipping.on_nonfinite = "skip"
    values = [5] * accumulate + [NAN] + [5] * (2 * accumulate - 1)
    with pytest.warns(UserWarning, match="skipped") as warned:
        trainer, module = fitted(tmp_path, values, skipping, max_epochs=1, accumulate_grad_batches=accumulate)
    _, plain = fitted(tmp_path, [5] * 2 * accumulate, max_epochs=1, accumulate_grad_batches=accumulate)
    assert module.weight == plain.weight != 1
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    clean = OneWeight()
    clean.on_nonfinite = "skip"
    trainer, _ = fitted(tmp_path, [5], clean, max_epochs=1)
    assert trainer.callback_metrics["train/skipped_steps"] == 0, "it can be monitored before any step is skipped"
    texts = [str(warning.message) for warning in warned]
    assert any(f"step 2; samples: room{accumulate}. The step is skipped" in text for text in texts)
    assert any("1 of 3 optimizer steps were skipped" in text for text in texts)


def test_the_count_goes_on_after_a_resume(tmp_path):
    def run(epochs, **resume):
        module = OneWeight()
        module.on_nonfinite = "skip"
        trainer = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=[ModelCheckpoint(tmp_path, filename="end")])
        trainer.fit(module, numbers(2, NAN), weights_only=True, **resume)
        return next(one for one in trainer.callbacks if isinstance(one, NonFiniteGuard)).skipped

    assert run(1) == 1
    assert run(3, ckpt_path=tmp_path / "end.ckpt") == 3


@pytest.mark.parametrize(("epochs", "text"), [(1, "nothing was trained: all of the 2"), (99, "20 steps in a row were")])
def test_a_run_that_only_skips_is_an_error(tmp_path, epochs, text):
    module = OneWeight()
    module.on_nonfinite = "skip"
    with pytest.raises(FloatingPointError, match=text):
        fitted(tmp_path, [NAN, NAN], module, max_epochs=epochs)
    assert module.weight == 1


def test_another_action_is_an_error():
    with pytest.raises(ValueError, match="on_nonfinite must be stop or skip; got 'go'"):
        NonFiniteGuard("go")


# Half precision


def half(scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6))


class Steep(OneWeight):
    def training_step(self, batch, batch_idx):
        return (self.adapter.weight * 8 - 7.9).sum() * batch.x.mean()


def test_an_overflow_of_the_loss_scale_is_no_error(tmp_path):
    precision = half(2.0**127)  # 8 x 2^127 is infinite in float32
    trainer, module = fitted(tmp_path, [1, 1], Steep(), max_epochs=2, plugins=[precision])
    assert precision.scaler.get_scale() < 2.0**127  # the GradScaler skipped steps of its own
    assert trainer.global_step == 4
    assert module.weight != 1


def test_a_loss_that_is_not_finite_is_an_error_under_a_loss_scale(tmp_path):
    with pytest.raises(FloatingPointError, match="loss is not finite at optimizer step 2; samples: room1"):
        fitted(tmp_path, [1, NAN], Steep(), plugins=[half(2.0)])


def test_a_gradient_that_overflows_without_a_scale_is_an_error(tmp_path):
    class Root(OneWeight):
        def training_step(self, batch, batch_idx):
            return (self.adapter.weight * 0 * batch.x).sqrt().sum()

    with pytest.raises(FloatingPointError, match="the gradient of adapter"):
        fitted(tmp_path, [2] * 4, Root(), plugins=[half(4.0)])  # 4, 2, then 1


# Two processes


@pytest.mark.distributed
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_all_ranks_agree(tmp_path, action):
    """Only rank 1 sees a wrong loss, with gradients that are finite everywhere."""
    start_processes(rank_of_two, (action, tmp_path), nprocs=2, start_method="fork")
    said = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0] == {"stop": "loss of room1", "skip": "no gradient"}[action]


def rank_of_two(rank, action, folder):
    environment = LightningEnvironment()
    environment.local_rank = lambda: rank
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2, cluster_environment=environment)
    trainer = SimpleNamespace(strategy=strategy, precision_plugin=None, global_step=3)
    module, guard = OneWeight(), NonFiniteGuard(action)
    module.log = lambda *_: None  # no loop runs here
    optimizer = module.configure_optimizers()["optimizer"]
    module.adapter.weight.grad = torch.ones(1, 1)
    guard.on_train_batch_start(trainer, module, SimpleNamespace(sample_id=[f"room{rank}"]), 0)
    guard.on_before_backward(trainer, module, torch.tensor(INF if rank else 1.0))
    try:
        guard.on_before_optimizer_step(trainer, module, optimizer)
        said = "no gradient" if module.adapter.weight.grad is None else "a gradient"
    except FloatingPointError as error:
        said = "loss of room1" if "step 4; samples: room1." in str(error) else str(error)
    (folder / f"rank{rank}").write_text(said)
    torch.distributed.destroy_process_group()


# What is written


class Breaks(OneWeight):
    """Its weight, or the average alone, becomes NaN after the second step."""

    def __init__(self, average=None):
        super().__init__()
        self.average = average

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == 2:
            part = self.adapter if self.average is None else self.average._average_model.module.adapter
            part.weight.data.fill_(NAN)


@pytest.mark.parametrize("averaged", [False, True])
def test_no_checkpoint_of_wrong_weights_replaces_a_good_one(tmp_path, averaged):
    average = TrainedWeightsEMA(decay=0.5) if averaged else None
    last = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    last.on_train_batch_end, save = (lambda *_: None), last.on_train_batch_end  # after the module's hook, as an epoch's

    class Saves(Breaks):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            super().on_train_batch_end(outputs, batch, batch_idx)
            save(self.trainer, self, outputs, batch, batch_idx)

    callbacks = [last] if average is None else [average, last]
    with pytest.raises(FloatingPointError, match=r"no checkpoint is written at step 2: adapter\.weight has NaN"):
        fitted(tmp_path, [2] * 4, Saves(average), callbacks=callbacks)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 1
    assert kept["state_dict"]["adapter.weight"].isfinite().all()


def test_weights_that_overflow_the_written_precision_are_found():
    state = {"counts": torch.tensor([2**40]), "a": torch.ones(2), "b": torch.tensor([1.0, 1e6])}
    assert first_not_finite(state) is None
    with pytest.raises(FloatingPointError, match=r"out x is not written: b has NaN or infinite values as float16\. Do"):
        check_finite(state, "out x is not written", "Do y.", torch.float16)
