"""Several ranks stop at a signal together, within a step or a validation; none leaves the others alone."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from mvdiff.signals import Stopped
from mvdiff.training.stopping import ended_by_signal, handle_signals
from tests.forked import command
from tests.forked import run as run_forked
from tests.launched import ROOT, said, torchrun
from tests.training.one_weight import quiet_trainer
from tests.training.signalled import yaml_config
from tests.training.tiny_run import write_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def test_a_rank_that_another_leaves_alone_in_a_validation_ends_without_an_error_of_the_backend(tmp_path, monkeypatch):
    """As after a second Ctrl-C that reached the other rank only."""
    trainer = quiet_trainer(tmp_path)
    handle_signals(trainer)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    trainer.state.fn = TrainerFn.FITTING
    signals, error = trainer._signal_connector, RuntimeError("Connection closed by peer")
    signals.noted, signals.phase = signal.SIGINT, "scoring"

    @ended_by_signal(trainer)
    def fail():
        trainer.callbacks[-1].on_exception(trainer, None, error)
        raise error

    with pytest.raises(Stopped, match="stopped by SIGINT before the first step"):
        fail()


def run_two(folder, launcher, **model):
    """Fit on two processes; the first has four batches to validate, the second two. Return status and output."""
    config = yaml_config(folder, **model) | {"seed_everything": 0}
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    config["data"]["init_args"] = {"more_on_first": True}
    path = write_config(folder / "run.yaml", config)
    if launcher == "forked":
        return 143, run_forked(folder / "log", command, ["fit", "--config", str(path)], ranks=2, status=143)
    if launcher == "torchrun":
        return torchrun(folder, "fit", "--config", str(path)).returncode, said(folder)
    words = [sys.executable, "train.py", "fit", "--config", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    how = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **how, start_new_session=True) as launched:
        try:
            _, errors = launched.communicate(timeout=300)
        finally:
            with suppress(ProcessLookupError):  # the ranks that a launcher left behind
                os.killpg(launched.pid, signal.SIGKILL)
    return launched.returncode, errors


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "rank", "hook", "call", "step"),
    [
        ("torchrun", None, "training_step", 2, 2),
        ("lightning", 1, "training_step", 1, 1),  # several finish the first batch; one process would stop at once
        ("forked", 1, "validation_step", 1, 3),
        ("forked", 0, "validation_step", 3, 4),  # the second process has only two batches
    ],
)
def test_two_processes_stop_together_and_write_one_file(tmp_path, launcher, rank, hook, call, step):
    status, errors = run_two(tmp_path, launcher, hook=hook, call=call, rank=rank)
    last = tmp_path / "checkpoints" / "last.ckpt"
    text = f"mvdiff fit: stopped by SIGTERM after step {step}, which is saved in {last}"
    assert errors.count(text) == 1, errors
    assert launcher == "torchrun" or "Traceback" not in errors
    assert status == (1 if launcher == "torchrun" else 143)  # torchrun's own for a process that failed
    kept = ["last.ckpt", "last.previous.ckpt"] if step == 4 else ["last.ckpt"]  # the one before is of the epoch's end
    assert sorted(path.name for path in last.parent.iterdir() if path.name != ".run.lock") == kept
