"""`mvdiff fit` and `export` after interruptions, with wrong numbers, and as a trial: what is written, what is not."""

import copy

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.pipelines.model_folder import read_model_info
from mvdiff.training.checkpoint_files import CheckpointFiles
from tests.training.tiny_run import tiny_config, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of two steps without validation that saves last.ckpt at each step."""
    config = tiny_config(tmp_path_factory.mktemp("tiny"))
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0, "logger": False}
    config["trainer"] |= {"enable_progress_bar": False, "num_sanity_val_steps": 0}
    return config


def run_yaml(config, folder, **trainer):
    """Write the run's YAML; everything that it writes goes below `folder`."""
    run = copy.deepcopy(config)
    keep = {"dirpath": str(folder), "filename": "last", "every_n_train_steps": 1, "enable_version_counter": False}
    run["trainer"] |= {"default_root_dir": str(folder), **trainer}
    run["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep})
    return str(write_config(folder.parent / f"{folder.name}.yaml", run))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--config", run_yaml(config, folder)]) == 0
    return folder


@pytest.fixture
def resumable(trained, tmp_path):
    """A copy of the checkpoints of the run, at step 1 and step 2."""
    for name in ("last.ckpt", "last.previous.ckpt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    return tmp_path


def global_step(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_the_run_keeps_two_checkpoints(trained):
    assert sorted(path.name for path in trained.glob("*.ckpt")) == ["last.ckpt", "last.previous.ckpt"]
    assert (global_step(trained / "last.ckpt"), global_step(trained / "last.previous.ckpt")) == (2, 1)


def test_a_damaged_checkpoint_is_resumed_from_the_one_before_with_what_is_typed(resumable, config, capsys):
    run, last = run_yaml(config, resumable / "again"), resumable / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    typed = ["--model.optimizer.init_args.lr", "0.003", "--model.optimizer.init_args.weight_decay", "0.2"]
    with (
        pytest.warns(UserWarning, match=r"last\.ckpt is not used: .*\.previous\.ckpt"),
        pytest.warns(UserWarning, match=r"lr 0\.01 -> 0\.003.*weight_decay 0\.01 -> 0\.2"),
    ):
        assert main(["fit", "--config", run, "--ckpt_path", str(last), *typed]) == 0
    assert global_step(resumable / "again" / "last.ckpt") == 2
    (group,) = torch.load(resumable / "again" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.003, 0.2)
    settings = read_model_info(resumable / "again" / "model").training.settings
    assert (settings["learning rate"], settings["weight decay"]) == (0.003, 0.2)
    assert settings["schedule"] == "WarmupCosine"
    assert "step 1: model.optimizer.init_args.lr 0.01 -> 0.003" in settings["changed on resume"]
    assert main(["validate", "--config", run, "--ckpt_path", str(last)]) == 1  # scores are of the file that is named
    assert "must be a whole file; got one whose end is missing, in " in capsys.readouterr().err


def test_wrong_numbers_stop_the_run_with_status_3(tmp_path, config, capsys):
    run = run_yaml(config, tmp_path / "run", accumulate_grad_batches=1, limit_train_batches=4)
    assert main(["fit", "--config", run, "--model.optimizer.init_args.lr", "1e30"]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvdiff fit: error:")]
    assert "is not finite at optimizer step 2; samples: room" in line
    assert not (tmp_path / "run" / "model").exists()
    assert global_step(tmp_path / "run" / "last.ckpt") == 1


def test_export_refuses_weights_that_are_not_finite(resumable, capsys):
    checkpoint = torch.load(resumable / "last.ckpt", weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name].view(-1)[0] = float("inf")
    CheckpointFiles().save_checkpoint(checkpoint, resumable / "wrong.ckpt")
    export = ["export", str(resumable / "wrong.ckpt"), "--out", str(resumable / "model")]
    assert main(export) == 3
    assert f"{name.removeprefix('adapter.')} has NaN or infinite values" in capsys.readouterr().err
    assert not (resumable / "model").exists()


@pytest.mark.parametrize("command", ["fit", "test"])  # test predicts, and scores
def test_a_trial_writes_nothing(trained, tmp_path, config, capsys, command):
    run = run_yaml(config, tmp_path / "run", fast_dev_run=True, limit_val_batches=1)
    output = ["--model.output.dir", str(tmp_path / "out"), "--model.output.metrics=[overlap_psnr]"]
    checkpoint = [] if command == "fit" else ["--ckpt_path", str(trained / "last.ckpt")]
    before = sorted(tmp_path.rglob("*"))
    assert main([command, "--config", run, *output, *checkpoint, "--model.output.evaluation.overlap_size=0"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert f"trainer.fast_dev_run: {command} ran through and wrote nothing." in capsys.readouterr().out
