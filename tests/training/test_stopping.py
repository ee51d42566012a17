"""Signals stop a run between two steps, save it, and say so: the resumed run ends as if nothing had happened."""

import logging
import os
import re
import shlex
import signal
import sys

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from mvdiff.cli.main import main
from mvdiff.signals import Stopped, outlive_signals, stopped_by
from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.stopping import ended_by_signal, handle_signals
from tests.faults import full_disk
from tests.training.one_weight import quiet_trainer
from tests.training.signalled import NumbersData, Signalled, weight_of, yaml_config
from tests.training.tiny_run import write_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
EPOCHS, STEPS = 2, 3


def fit(folder, module, ckpt_path=None, average=TrainedWeightsEMA, **settings):
    """Fit with an average of the weights; keep the best of each epoch. Returns the Trainer."""
    best = ModelCheckpoint(folder, filename="best", monitor="val/loss", enable_version_counter=False)
    callbacks = [average(decay=0.5), best]
    trainer = quiet_trainer(folder, callbacks=callbacks, plugins=[CheckpointFiles()], max_epochs=EPOCHS, **settings)
    handle_signals(trainer)
    with ended_by_signal(trainer):
        trainer.fit(module, datamodule=NumbersData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".run.lock")


@pytest.fixture(scope="module", params=[1, 2], ids=["whole epochs", "validation in mid-epoch"])
def whole(request, tmp_path_factory):
    """A run that no signal reaches, and its settings."""
    settings = {} if request.param == 1 else {"val_check_interval": request.param}
    module = Signalled()
    trainer = fit(tmp_path_factory.mktemp("whole"), module, **settings)
    return module, trainer.checkpoint_callback, settings


PLACES = [
    ("training_step", 2),
    ("on_before_optimizer_step", 2),
    ("on_train_batch_end", 2),
    ("training_step", 3),
    ("on_train_batch_end", 3),
    ("validation_step", 1),
    ("validation_step", 2),
    ("on_validation_epoch_end", 1),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_start", 2),
    ("on_train_batch_start", 4),
    ("training_step", 5),
    ("validation_step", 3),
]


@pytest.mark.parametrize(("hook", "call"), PLACES)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, whole, hook, call):
    expected, best, settings = whole
    stopped = Signalled(hook, call)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM after step \d, which is saved in .*last\.ckpt; resume") as e:
        fit(tmp_path, stopped, **settings)
    assert e.value.status == 143
    resumed = Signalled()
    trainer = fit(tmp_path, resumed, ckpt_path=tmp_path / "last.ckpt", **settings)
    assert trainer.global_step == EPOCHS * STEPS
    assert trainer.current_epoch == EPOCHS
    assert resumed.weight == expected.weight
    assert stopped.rates + resumed.rates == expected.rates  # each step once
    assert stopped.validations + resumed.validations == expected.validations  # each validation once, in full
    assert trainer.checkpoint_callback.best_model_score == best.best_model_score


@pytest.mark.parametrize("average", [TrainedWeightsEMA, EMAWeightAveraging])
@pytest.mark.parametrize(("hook", "step"), [("training_step", 2), ("validation_step", 3)])
def test_the_average_and_the_trained_weight_are_not_mistaken(tmp_path, average, hook, step):
    with pytest.raises(Stopped, match=f"after step {step}, which is saved in"):
        fit(tmp_path, Signalled(hook, 2), average=average)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    trained, averaged = (kept[key]["adapter.weight"].item() for key in ("current_model_state", "state_dict"))
    assert 1 < averaged < trained < 2  # from 1 towards 2; the average lags behind


@pytest.mark.parametrize(("hook", "call"), [("training_step", 1), ("on_train_batch_start", 1), ("on_fit_start", 1)])
def test_before_the_first_step_there_is_nothing_to_save(tmp_path, hook, call):
    """In setup the signal reaches the handler of the command line."""
    with stopped_by(signal.SIGTERM), pytest.raises(Stopped) as stopped:
        fit(tmp_path, Signalled(hook, call))
    text = "" if hook == "on_fit_start" else " before the first step of this run; there is nothing to save"
    assert str(stopped.value) == f"stopped by SIGTERM{text}"
    assert names(tmp_path) == []


def test_a_signal_in_the_last_step_lets_the_run_end_well(tmp_path):
    module = Signalled("on_before_optimizer_step", EPOCHS * STEPS)
    trainer = fit(tmp_path, module, limit_val_batches=0)
    assert trainer.global_step == EPOCHS * STEPS


def test_handlers_are_put_back(tmp_path):
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1]
    before = list(map(signal.getsignal, signals))
    with pytest.raises(Stopped), stopped_by(signal.SIGTERM, signal.SIGINT):
        fit(tmp_path, Signalled("training_step", 2))
    assert list(map(signal.getsignal, signals)) == before


# The command line


def run(folder, *flags, command="fit", config=None, **model):
    folder.mkdir(exist_ok=True)
    path = write_config(folder / "run.yaml", config or yaml_config(folder, **model))
    return main([command, "--config", str(path), *map(str, flags)])


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    """The last checkpoint of a run that no signal reaches."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder) == 0
    return folder / "checkpoints" / "last.ckpt"


def test_sigterm_saves_and_exits_with_143(tmp_path, capsys, caplog, monkeypatch, whole_file):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO, "lightning.pytorch")
    assert run(tmp_path / "a b", hook="training_step", call=2, times=3) == 143
    checkpoints = tmp_path / "a b" / "checkpoints"
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert not [message for message in caplog.messages if "weights_only" in message]
    assert line == (
        f"mvdiff fit: stopped by SIGTERM after step 2, which is saved in {checkpoints}/last.ckpt; resume with mvdiff "
        f"fit --config '{tmp_path}/a b/version_0/config.yaml' --ckpt_path '{checkpoints}/last.ckpt'"
    )
    assert names(checkpoints) == ["last.ckpt"]
    words = shlex.split(line.partition("resume with mvdiff ")[2])
    assert main([*words, "--model.call", "0"]) == 0
    assert weight_of(checkpoints / "last.ckpt") == weight_of(whole_file)


def test_a_resumed_run_names_its_own_settings(tmp_path, capsys):
    version = tmp_path / "run" / "version_0"
    config = yaml_config(tmp_path / "run", hook="training_step", call=2)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger"}
    config["trainer"]["logger"] = logger | {"init_args": {"save_dir": str(tmp_path), "name": "run", "version": 0}}
    assert run(tmp_path / "run", config=config) == 143
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"--config {version}/config.yaml --ckpt_path {last}" in capsys.readouterr().err
    assert run(tmp_path / "run", "--ckpt_path", last, config=config) == 143
    assert f"--config {version}/config-2.yaml --ckpt_path {last}" in capsys.readouterr().err


def test_ctrl_c_saves_and_exits_with_130(tmp_path, capsys):
    assert run(tmp_path / "run", hook="training_step", call=2, number=int(signal.SIGINT)) == 130
    assert "mvdiff fit: stopped by SIGINT after step 2, which is saved in " in capsys.readouterr().err
    assert names(tmp_path / "run" / "checkpoints") == ["last.ckpt"]


def test_a_second_ctrl_c_stops_in_mid_step(tmp_path, capsys):
    assert run(tmp_path / "run", hook="training_step", call=2, number=int(signal.SIGINT), times=2) == 130
    line = "mvdiff fit: stopped by SIGINT after step 1 in the middle of a step; nothing was saved, earlier checkpoints"
    assert line in capsys.readouterr().err
    assert names(tmp_path / "run" / "checkpoints") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_predict_stops_at_once(tmp_path, capsys, number):
    config = yaml_config(tmp_path, hook="predict_step", call=1, number=int(number))
    assert run(tmp_path, command="predict", config=config) == 128 + number
    assert f"mvdiff predict: stopped by {number.name}\n" in capsys.readouterr().err


def test_a_run_without_checkpoints_saves_nothing(tmp_path, capsys):
    config = yaml_config(tmp_path, hook="training_step", call=2)
    config["trainer"] |= {"callbacks": [], "enable_checkpointing": False}
    assert run(tmp_path, config=config) == 143
    assert "stopped by SIGTERM after step 2; nothing was saved" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_loading_processes_outlive_a_signal_to_the_group(tmp_path, capsys):
    config = yaml_config(tmp_path, hook="training_step", call=2, group=True)
    config["data"]["init_args"] = {"num_workers": 2}
    assert run(tmp_path, config=config) == 143
    assert "stopped by SIGTERM after step 2, which is saved in " in capsys.readouterr().err


def test_without_that_their_end_is_no_error_of_its_own(tmp_path, capsys):
    config = yaml_config(tmp_path, hook="on_train_batch_end", call=2, group=True)
    config["data"]["init_args"] = {"num_workers": 2, "outlive": False}
    assert run(tmp_path, config=config) == 143  # after step 3 if its batch was there already
    assert re.search("stopped by SIGTERM after step [23], which is saved in ", capsys.readouterr().err)


def test_a_full_disk_while_it_saves_keeps_the_earlier_checkpoint(tmp_path, capsys, monkeypatch, whole_file):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    before = whole_file.read_bytes()
    last.write_bytes(before)
    full_disk(monkeypatch, call=2, function="fsync")  # the first is of config.yaml
    assert run(tmp_path / "run", hook="training_step", call=2) == 3
    assert f"checkpoint {last} could not be written (No space left on device; " in capsys.readouterr().err
    assert last.read_bytes() == before


# SLURM


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM with one task; its `scontrol` notes what it was called with."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "called"))}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    job = {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in {**job, "JOB_ID": 4711, "JOB_NAME": "pano"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return tmp_path


def called(folder):
    return (folder / "called").read_text().splitlines() if (folder / "called").exists() else []


def test_sigusr1_saves_and_requeues_and_the_job_resumes(slurm, capsys, monkeypatch, whole_file):
    usr1 = int(signal.SIGUSR1)
    settings = {"hook": "training_step", "call": 2, "number": usr1}  # a requeued job starts with the same
    assert run(slurm / "run", **settings) == 128 + usr1
    path = slurm / "run" / "hpc_ckpt_1.ckpt"
    text = f"stopped by SIGUSR1 after step 2, which is saved in {path}; the job is requeued and resumes from it"
    assert text in capsys.readouterr().err
    assert called(slurm) == ["requeue 4711"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(slurm / "run", **settings) == 128 + usr1  # steps 3 and 4
    assert "after step 4, which is saved in" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    other = slurm / "run" / "hpc_ckpt_2.ckpt"
    assert run(slurm / "run", "--ckpt_path", other) == 0  # without a signal, it is another run
    assert weight_of(slurm / "run/checkpoints/last.ckpt") == weight_of(whole_file)
    assert called(slurm) == ["requeue 4711"] * 2


def test_a_job_of_an_array_requeues_itself_alone(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    assert run(slurm / "run", hook="validation_step", call=1, number=int(signal.SIGUSR1)) == 138
    assert called(slurm) == ["requeue 4700_11"]


def test_sigusr1_in_the_first_step_requeues_the_job(slurm, capsys, monkeypatch):
    assert run(slurm / "run", hook="training_step", call=1, number=int(signal.SIGUSR1)) == 138
    line = "stopped by SIGUSR1 before the first step of this run; there is nothing to save; the job is requeued\n"
    assert line in capsys.readouterr().err
    assert called(slurm) == ["requeue 4711"]


def test_sigusr1_in_the_validation_that_a_requeued_job_repeats_requeues_it_again(slurm, capsys, monkeypatch):
    settings = {"hook": "validation_step", "call": 1, "number": int(signal.SIGUSR1)}
    assert run(slurm / "run", **settings) == 138
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(slurm / "run", **settings) == 138
    line = "stopped by SIGUSR1 before the first step of this run; there is nothing to save; the job is requeued\n"
    assert line in capsys.readouterr().err
    assert called(slurm) == ["requeue 4711"] * 2


@pytest.mark.parametrize("fault", [None, "refuses"])
def test_sigusr1_requeues_a_job_without_checkpoints(slurm, capsys, fault):
    config = yaml_config(slurm, hook="training_step", call=2, number=int(signal.SIGUSR1))
    config["trainer"] |= {"fast_dev_run": 4}
    if fault:
        (slurm / "bin" / "scontrol").write_text("#!/bin/sh\necho Operation is disabled >&2\nexit 1\n")
    assert run(slurm, config=config) == 138
    queue = "job 4711 is not requeued (scontrol: Operation is disabled)" if fault else "the job is requeued"
    line = f"after step 2; nothing was saved, earlier checkpoints are left as they are; {queue}\n"
    assert line in capsys.readouterr().err
    assert called(slurm) == ([] if fault else ["requeue 4711"])


def test_a_number_that_another_job_took_is_not_named(slurm, capsys, monkeypatch):
    """Two jobs ask for the same number before either has written."""
    taken = slurm / "run" / "hpc_ckpt_1.ckpt"
    monkeypatch.setattr(_CheckpointConnector, "hpc_save_path", lambda _self, folder: f"{folder}/hpc_ckpt_1.ckpt")
    taken.parent.mkdir()
    taken.write_bytes(b"another job's")
    assert run(slurm / "run", hook="training_step", call=2) == 143
    path = slurm / "run" / "hpc_ckpt_2.ckpt"
    text = capsys.readouterr().err
    assert f"which is saved in {path}; " in text
    assert f"--ckpt_path {path}\n" in text
    assert taken.read_bytes() == b"another job's"


def test_sigterm_under_slurm_saves_for_the_same_job_and_leaves_the_queue_alone(slurm, capsys):
    assert run(slurm / "run", hook="training_step", call=2) == 143
    path = slurm / "run" / "hpc_ckpt_1.ckpt"
    assert f"is saved in {path}; if SLURM requeues the job it resumes from there" in capsys.readouterr().err
    assert path.is_file()
    assert called(slurm) == []


@pytest.mark.parametrize("fault", ["refuses", "is missing"])
def test_a_job_that_cannot_be_requeued_is_told_how_to_resume(slurm, capsys, monkeypatch, fault):
    scontrol = slurm / "bin" / "scontrol"
    scontrol.write_text("#!/bin/sh\necho Requested operation is disabled >&2\nexit 1\n")
    if fault == "is missing":
        scontrol.unlink()
    assert run(slurm / "run", hook="training_step", call=2, number=int(signal.SIGUSR1)) == 138
    reason = {"refuses": "Requested operation is disabled", "is missing": "No such file or directory"}[fault]
    line = f"job 4711 is not requeued (scontrol: {reason}): resume with mvdiff fit --config "
    assert line in capsys.readouterr().err


def test_outside_of_slurm_the_signal_to_requeue_is_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert run(tmp_path / "run", hook="training_step", call=2, number=int(signal.SIGUSR1)) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


# Signals alone


def test_ignored_and_foreign_handlers_are_left_alone():
    for handler in (signal.SIG_IGN, print):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            with stopped_by(signal.SIGTERM):
                assert signal.getsignal(signal.SIGTERM) is handler
        finally:
            signal.signal(signal.SIGTERM, before)


def test_a_loading_process_ends_some_time_after_sigterm(monkeypatch):
    alarms = []
    monkeypatch.setattr("mvdiff.signals.signal.alarm", alarms.append)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        outlive_signals()
        for number in numbers:
            os.kill(os.getpid(), number)
        assert alarms == [20]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
