import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.trained_part import TrainedPartModule


class Line(TrainedPartModule):
    """Fits y = w x beside a frozen base that no checkpoint holds; notes w as it trains and validates."""

    def configure_model(self):
        if not hasattr(self, "adapter"):
            self.adapter = nn.Linear(1, 1, bias=False)
            nn.init.ones_(self.adapter.weight)
            self.base = nn.Linear(3, 3).requires_grad_(False)
            self.trained_with, self.validated_with = [], []

    def training_step(self, x, index):
        self.trained_with.append(self.adapter.weight.item())
        return (self.adapter(x) - 3 * x).square().mean()

    def validation_step(self, x, index):
        self.validated_with.append(self.adapter.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.adapter.parameters(), lr=0.1)


def loader():
    return DataLoader(torch.tensor([[1.0], [2.0], [0.5], [1.5]]))


def fit(epochs, ckpt_path=None, callbacks=(), ema=True, **settings):
    module = Line()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*([TrainedWeightsEMA(**{"decay": 0.8} | settings)] if ema else []), *callbacks],
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(), DataLoader(torch.ones(1, 1)), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


def expected(epochs, decay_after=lambda updates: 0.8):
    """Gradient descent and its average by hand: d/dw (w x - 3 x)^2 = 2 x^2 (w - 3)."""
    w, average, trained, validated, updates = 1.0, None, [], [], 0
    for _ in range(epochs):
        for x in (1.0, 2.0, 0.5, 1.5):
            trained.append(w)
            w -= 0.1 * 2 * x * x * (w - 3)
            decay = decay_after(updates)
            average = w if average is None else decay * average + (1 - decay) * w
            updates += 1
        validated.append(average)
    return trained, validated


def test_average_matches_the_recurrence():
    _, module = fit(epochs=3)
    trained, validated = expected(3)
    assert module.trained_with == pytest.approx(trained, abs=1e-5)
    assert module.validated_with == pytest.approx(validated, abs=1e-5)
    assert module.adapter.weight.item() == pytest.approx(validated[-1], abs=1e-5)  # fit ends with the average


def test_warm_up_averages_faster_at_first():
    """Twelve updates: decays 2/11, 3/12, 4/13, 5/14, then 0.36, which (1 + n) / (10 + n) passes at n = 5."""
    _, module = fit(epochs=3, decay=0.36, warm_up=True)
    decays = [0, 2 / 11, 3 / 12, 4 / 13, 5 / 14]
    _, validated = expected(3, lambda updates: decays[updates] if updates < 5 else 0.36)
    assert module.validated_with == pytest.approx(validated, abs=1e-5)
    assert validated[0] != pytest.approx(expected(1, lambda updates: 0.36)[1][0], abs=1e-3)


def test_warm_up_resumes_where_it_was(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    _, whole = fit(epochs=3, callbacks=[saver], warm_up=True)
    _, resumed = fit(epochs=3, ckpt_path=tmp_path / "epoch=0.ckpt", warm_up=True)
    assert resumed.validated_with == whole.validated_with[1:]
    assert torch.equal(resumed.adapter.weight, whole.adapter.weight)


def test_checkpoint_holds_average_and_current_of_the_trained_part(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=6)
    _, module = fit(epochs=2, callbacks=[saver])
    checkpoint = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(checkpoint["current_model_state"]) == {"adapter.weight"}
    assert checkpoint["current_model_state"]["adapter.weight"].item() == module.trained_with[6]
    average = checkpoint["state_dict"]["adapter.weight"].item()
    assert average < module.trained_with[6] - 0.01  # it lags behind


def test_resume_equals_an_uninterrupted_run(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    _, whole = fit(epochs=4, callbacks=[saver])
    _, resumed = fit(epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert resumed.trained_with == whole.trained_with[8:]
    assert resumed.validated_with == whole.validated_with[2:]
    assert torch.equal(resumed.adapter.weight, whole.adapter.weight)


def test_resume_at_the_last_step_keeps_the_average(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=8)
    _, whole = fit(epochs=2, callbacks=[saver])
    _, resumed = fit(epochs=2, ckpt_path=tmp_path / "step=8.ckpt")
    assert resumed.trained_with == []
    assert torch.equal(resumed.adapter.weight, whole.adapter.weight)


def test_a_checkpoint_without_average_starts_one(tmp_path):
    _, plain = fit(epochs=1, callbacks=[ModelCheckpoint(tmp_path, filename="plain")], ema=False)
    _, resumed = fit(epochs=2, ckpt_path=tmp_path / "plain.ckpt")
    assert resumed.trained_with[0] == plain.adapter.weight.item()
    assert min(resumed.validated_with) > plain.adapter.weight.item()


def test_contracts():
    with pytest.raises(ValueError, match="decay must lie between 0 and 1; got 1"):
        TrainedWeightsEMA(decay=1)
    with pytest.raises(ValueError, match="requires a TrainedPartModule; got LightningModule"):
        TrainedWeightsEMA().setup(Trainer(logger=False, accelerator="cpu"), LightningModule(), "fit")
