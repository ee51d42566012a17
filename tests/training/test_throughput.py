"""Throughput and the lines of a training."""

import re
from datetime import timedelta

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler

from mvdiff.training import throughput
from mvdiff.training.watch import TrainingWatch
from tests.training.any_place import Notes
from tests.training.one_weight import Numbers, OneWeight, numbers, quiet_trainer

SECONDS = 2.0
"""What a step takes, and what slow data take, by the clock of the tests."""


class Clock:
    """Time that passes where a test says so."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", clock)
    return clock


class Sized(Numbers):
    batch_size = 5


class Slow(OneWeight):
    """Takes its time for a batch, and longer for what is no training."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += SECONDS
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.now += 1000


class SlowData:
    """Batches that say they hold five samples; the first ones are there at once."""

    def __init__(self, clock, count, quick):
        self.clock, self.batches, self.quick = clock, list(numbers(*[2.0] * count)), quick

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for index, batch in enumerate(self.batches):
            self.clock.now += SECONDS * (index >= self.quick)
            yield Sized(batch.x, batch.sample_id)


def watched(folder, data, module=None, **settings):
    """Fit; return what was logged by step."""
    notes, lines = Notes(), {}
    defaults = {"logger": notes, "max_epochs": 1, "log_every_n_steps": 10}
    watch, val = TrainingWatch(**settings.pop("watch", {})), settings.pop("val_dataloaders", None)
    trainer = quiet_trainer(folder, callbacks=[watch], **defaults | settings)
    trainer.fit(module or OneWeight(), data, val)
    for step, line in notes.lines:
        lines.setdefault(step, {}).update(line)
    return trainer, lines


def test_waiting_for_data_is_told_from_work(tmp_path, clock):
    """Neither is the validation between the two windows of ten steps."""
    loaders = {"val_dataloaders": numbers(1.0), "val_check_interval": 5}
    _, lines = watched(tmp_path, SlowData(clock, 20, quick=10), Slow(clock), **loaders)
    first, second = lines[9], lines[19]
    assert first["train/data_wait"] == 0
    assert second["train/data_wait"] == pytest.approx(1 / 2)
    assert first["train/samples_per_second"] == pytest.approx(5 / SECONDS)
    assert second["train/samples_per_second"] == pytest.approx(5 / (2 * SECONDS))
    assert 0.01 < first["train/peak_memory"] < 100


def test_the_profiler_of_the_user_goes_on(tmp_path):
    profiler = SimpleProfiler()
    trainer, _ = watched(tmp_path, numbers(2.0, 2.0, 2.0), profiler=profiler)
    assert trainer.profiler is profiler
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 3


def steps_of(printed):
    return [int(match[1].replace(",", "")) for match in re.finditer(r"^step ([\d,]+)/", printed, re.MULTILINE)]


def test_lines_come_first_and_tenth_and_every_n_and_last(tmp_path, capsys):
    watched(tmp_path, numbers(*[2.0] * 23), watch={"every_n_steps": 6})
    printed = capsys.readouterr().out
    assert steps_of(printed) == [1, 6, 10, 12, 18, 23]
    lines = {int(line.split("/")[0].split()[1]): line for line in printed.splitlines() if line.startswith("step ")}
    assert re.match(
        r"step 12/23  epoch 1/1  loss \S+  lr 0\.1  \d+% waiting for data  peak memory \S+ [kMG]B  ", lines[12]
    )
    assert " left, until " in lines[10]
    assert " left" not in lines[6]
    assert re.search(r"all steps made in \d+ s$", lines[23])


def test_on_a_terminal_the_tenth_step_says_the_time_left(tmp_path, capsys):
    watched(tmp_path, numbers(*[2.0] * 23), watch={"lines": False})
    assert steps_of(capsys.readouterr().out) == [10]


def test_steps_of_several_batches_have_one_line(tmp_path, capsys):
    watched(tmp_path, numbers(*[2.0] * 9), watch={"every_n_steps": 2}, accumulate_grad_batches=2)
    assert steps_of(capsys.readouterr().out) == [1, 2, 4, 5]


def test_validation_has_a_line(tmp_path, capsys):
    class Validated(OneWeight):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", 0.25, batch_size=1)
            self.log("val/overlap_psnr", 20.5, batch_size=1)

    trainer = quiet_trainer(tmp_path, callbacks=[TrainingWatch()], max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(Validated(), numbers(2.0, 3.0), numbers(1.0))
    assert capsys.readouterr().out.count("step 2: validation  val/loss 0.25  val/overlap_psnr 20.5 dB\n") == 1


@pytest.mark.parametrize(
    ("saver", "written"),
    [
        ({"every_n_train_steps": 2}, [(2, "epoch=0-step=2.ckpt"), (4, "epoch=0-step=4.ckpt")]),
        ({"every_n_train_steps": 2, "save_last": True}, [(2, "last.ckpt"), (4, "last.ckpt")]),
        ({"save_on_train_epoch_end": True}, [(5, "epoch=0-step=5.ckpt")]),
        ({"monitor": "train/loss", "every_n_train_steps": 5}, [(5, "epoch=0-step=5.ckpt")]),
    ],
)
def test_a_checkpoint_has_a_line_once_it_is_written(tmp_path, capsys, saver, written):
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[TrainingWatch(), ModelCheckpoint(tmp_path / "kept", **saver)],
        max_epochs=1,
    )
    trainer.fit(OneWeight(), numbers(*[2.0] * 5))
    said = re.findall(r"^step (\d+): checkpoint (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert [(int(step), path) for step, path in said] == [
        (step, str(tmp_path / "kept" / name)) for step, name in written
    ]


def test_the_report_counts_what_is_trained_how_long_and_where(tmp_path, capsys):
    model = OneWeight()
    model.frozen = OneWeight().requires_grad_(False)
    trainer, _ = watched(tmp_path, numbers(*[2.0] * 5), model, accumulate_grad_batches=2, max_epochs=3)
    report = capsys.readouterr().out.split("step 1/")[0]
    for text in (
        r"trained +1 parameters \(adapter\)",
        r"frozen +1 parameters",
        r"optimizer +AdamW, learning rate 0\.1",
        r"samples +5 for training",
        r"steps +9 optimizer steps; 3 epochs of 3 steps",
        r"precision +32-true",
        r"run folder +\S+",
    ):
        assert re.search(text, report), (text, report)
    assert trainer.global_step == 9


def test_the_report_says_which_checkpoints_are_kept_and_when(tmp_path, capsys):
    settings = {
        "every 2 steps, the last": {"every_n_train_steps": 2},
        "every step, all": {"every_n_train_steps": 1, "save_top_k": -1},
        "every 30 min, the last": {"train_time_interval": timedelta(minutes=30)},
        "every epoch, last.ckpt alone": {"save_top_k": 0, "save_last": True},
        "the 3 lowest train/loss": {"monitor": "train/loss", "save_top_k": 3},
    }
    savers = [ModelCheckpoint(tmp_path / str(i), **values) for i, values in enumerate(settings.values())]
    quiet_trainer(tmp_path, callbacks=[TrainingWatch(), *savers], max_epochs=1).fit(OneWeight(), numbers(2.0))
    report = capsys.readouterr().out
    for folder, text in enumerate(settings):
        assert re.search(rf"checkpoints +\S+/{folder}/\S+\.ckpt: {text}$", report, re.MULTILINE), (text, report)


@pytest.mark.parametrize("every_n_steps", [0, -1])
def test_a_count_below_one_is_refused(every_n_steps):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        TrainingWatch(every_n_steps)
