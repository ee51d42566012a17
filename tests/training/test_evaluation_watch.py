"""Lines of validate, test and predict."""

import re

import pytest
from torch.utils.data import DataLoader, IterableDataset

from mvdiff.training import evaluation_watch
from mvdiff.training.evaluation_watch import EvaluationWatch
from tests.training.one_weight import OneWeight, numbers, quiet_trainer
from tests.training.test_throughput import Clock, Sized


@pytest.fixture
def clock(monkeypatch):
    """Time that passes where a test says so."""
    clock = Clock()
    monkeypatch.setattr(evaluation_watch.time, "monotonic", clock)
    return clock


class Slow(OneWeight):
    """Takes 8 seconds for each of the first batches, and 2 for others."""

    def __init__(self, clock, slow):
        super().__init__()
        self.clock, self.slow = clock, slow

    def validation_step(self, batch, batch_idx):
        self.clock.now += 8 if batch_idx < self.slow else 2

    test_step = predict_step = validation_step


def sized(count):
    """Batches that say they hold five samples."""
    return DataLoader([Sized(batch.x, batch.sample_id) for batch in numbers(*[1.0] * count)], batch_size=None)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_lines_come_first_and_every_n_and_last_with_the_speed_since_the_line_before(tmp_path, clock, capsys, command):
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationWatch(every_n_batches=4)])
    getattr(trainer, command)(Slow(clock, slow=1), sized(10))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(command)]
    expected = (
        rf"{command}: batch 1/10  0\.625 samples/s  72 s left, until .*",
        rf"{command}: batch 4/10  2\.5 samples/s  12 s left, until .*",
        rf"{command}: batch 8/10  2\.5 samples/s  4 s left, until .*",
        rf"{command}: batch 10/10  2\.5 samples/s  all batches done in 26 s",
    )
    for line, text in zip(lines, expected, strict=True):
        assert re.fullmatch(text, line)


class Scoring(OneWeight):
    """Scores five generated samples and two reference samples, 3 seconds each, when its test ends."""

    def __init__(self, clock, watch):
        super().__init__()
        self.clock, self.watch = clock, watch

    def test_step(self, batch, batch_idx):
        pass

    def on_test_epoch_end(self):
        for which, count in (("generated", 5), ("reference", 2)):
            for _ in range(count):
                self.clock.now += 3
                self.watch.on_sample_scored(self.trainer, which, count)


def test_scored_samples_are_counted_like_batches(tmp_path, clock, capsys):
    watch = EvaluationWatch(every_n_batches=3)
    trainer = quiet_trainer(tmp_path, callbacks=[watch])
    for _ in range(2):  # a second test begins anew
        trainer.test(Scoring(clock, watch), sized(1))
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("test")]
        expected = (
            r"test: batch 1/1 .*  all batches done in 0 s",
            r"test: scoring, generated sample 1/5  0\.333 samples/s .*",
            r"test: scoring, generated sample 3/5  0\.333 samples/s  6 s left, until .*",
            r"test: scoring, generated sample 5/5  0\.333 samples/s  all samples scored in 15 s",
            r"test: scoring, reference sample 1/2 .*",
            r"test: scoring, reference sample 2/2  0\.333 samples/s  all samples scored in 6 s",
        )
        for line, text in zip(lines, expected, strict=True):
            assert re.fullmatch(text, line)


class Stream(IterableDataset):
    """Batches of unknown number and size."""

    def __iter__(self):
        return iter(numbers(1.0, 2.0, 3.0))


def test_a_stream_has_lines_without_an_end(tmp_path, clock, capsys):
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationWatch(2)])
    trainer.predict(Slow(clock, slow=0), DataLoader(Stream(), batch_size=None))
    assert capsys.readouterr().out.splitlines() == ["predict: batch 1", "predict: batch 2"]


def test_a_training_has_none_for_its_validations(tmp_path, clock, capsys):
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationWatch()], max_epochs=1)
    trainer.fit(Slow(clock, slow=0), numbers(1.0), numbers(1.0))
    assert capsys.readouterr().out == ""


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="every_n_batches must be at least 1; got 0"):
        EvaluationWatch(0)
