"""Correct runs print no warning: what is printed is worth reading."""

import copy
import logging
import warnings

import pytest

from mvdiff.cli.main import main
from tests.training.tiny_run import tiny_config, write_config

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.fixture
def run_in(tmp_path, caplog):
    """Run a command; return what it warned of, without deprecations, which Python shows to developers alone."""
    config = tiny_config(tmp_path)
    last = {"every_n_train_steps": 1, "filename": "last", "enable_version_counter": False}
    callbacks = [
        {"class_path": "mvdiff.training.ema.TrainedWeightsEMA", "init_args": {"decay": 0.5}},
        {"class_path": CHECKPOINT, "init_args": last},
        {"class_path": CHECKPOINT, "init_args": {"monitor": "val/loss", "filename": "best"}},
        {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"},
    ]
    config["trainer"] |= {"max_epochs": 1, "accumulate_grad_batches": 2, "default_root_dir": str(tmp_path / "run")}
    config["trainer"]["callbacks"] += callbacks
    config["data"]["init_args"]["num_val"] = 1
    config["model"]["init_args"]["output"] = {"metrics": ["overlap_psnr"], "evaluation": {"overlap_size": 0}}
    config["model"]["init_args"]["lr_interval"] = "step"

    def run(command, *options, **trainer):
        changed = copy.deepcopy(config)
        changed["trainer"] |= trainer
        with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.WARNING):
            warnings.simplefilter("always")
            caplog.clear()
            assert main([command, "--config", str(write_config(tmp_path / "run.yaml", changed)), *options]) == 0
            logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return logged + [str(one.message) for one in seen if not issubclass(one.category, DeprecationWarning)]

    return run


def test_runs_resumed_and_tested_warn_of_nothing(run_in, tmp_path):
    assert run_in("fit") == []
    saved = sorted((tmp_path / "run").rglob("last*.ckpt"))
    assert [path.name for path in saved] == ["last.ckpt", "last.previous.ckpt"]
    assert run_in("fit", "--ckpt_path", str(saved[1])) == []  # within the epoch
    for command in ("validate", "test", "predict"):
        assert run_in(command, "--ckpt_path", str(saved[0])) == []
