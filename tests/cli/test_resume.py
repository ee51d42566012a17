"""`mvdiff fit` and `export` after interruptions, with wrong numbers, and as a trial: what is written, what is not."""

import copy

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.pipelines.model_folder import read_model_info
from mvdiff.training.checkpoint_files import CheckpointFiles
from tests.training.any_place import is_same
from tests.training.test_slurm_jobs import TASK
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
    settings = read_model_info(resumable / "again" / "version_0" / "model").training.settings
    assert (settings["learning rate"], settings["weight decay"]) == (0.003, 0.2)
    assert settings["schedule"] == "WarmupCosine"
    assert "step 1: model.optimizer.init_args.lr 0.01 -> 0.003" in settings["changed on resume"]
    assert main(["validate", "--config", run, "--ckpt_path", str(last)]) == 1  # scores are of the file that is named
    assert "must be a whole file; got one whose end is missing, in " in capsys.readouterr().err


@pytest.fixture(scope="module")
def windows(config, tmp_path_factory):
    """YAML and folder of a run of two steps of three samples, saved after validations: at step 1 within a window."""
    folder = tmp_path_factory.mktemp("windows")
    run = copy.deepcopy(config)
    run["trainer"] |= {"limit_train_batches": 6, "val_check_interval": 2, "limit_val_batches": 1}
    run["trainer"] |= {"default_root_dir": str(folder / "run")}
    run["total_batch_size"] = 3
    saver = {"filename": "{step}", "save_top_k": -1, "save_on_train_epoch_end": False}
    run["trainer"]["callbacks"] += [
        {"class_path": "mvdiff.training.ema.TrainedWeightsEMA", "init_args": {"decay": 0.5}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver},
    ]
    path = str(write_config(folder / "run.yaml", run))
    assert main(["fit", "--config", path]) == 0
    return path, folder / "run" / "version_0"


def test_a_checkpoint_within_a_window_is_resumed_bit_for_bit(windows, tmp_path):
    path, folder = windows
    saved = folder / "checkpoints" / "step=1.ckpt"
    loop = torch.load(saved, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert loop["current"]["completed"] == 4
    assert main(["fit", "--config", path, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path", str(saved)]) == 0
    whole, resumed = (
        torch.load(one / "checkpoints" / "step=2.ckpt", weights_only=True) for one in (folder, tmp_path / "version_0")
    )
    for part in ("state_dict", "current_model_state", "optimizer_states", "EquirectangularDataModule"):
        assert is_same(whole[part], resumed[part]), part


def test_last_is_the_newest_checkpoint_of_the_root(windows, tmp_path, capsys):
    path, folder = windows
    root = ["fit", "--config", path, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path", "last"]
    assert main(root) == 1
    assert "--ckpt_path last needs a checkpoint to resume from; there is none below" in capsys.readouterr().err
    place = tmp_path / "version_7" / "checkpoints"
    place.mkdir(parents=True)
    (place / "a.ckpt").write_bytes((folder / "checkpoints" / "step=2.ckpt").read_bytes())
    assert main([*root, "--trainer.max_steps=2"]) == 0
    assert (tmp_path / "version_8" / "model").is_dir()
    assert not (tmp_path / "version_8" / "checkpoints").exists()  # all steps were made; a new run would save some


def test_a_job_says_that_it_does_not_resume_from_the_file_of_another(windows, tmp_path, monkeypatch):
    path, folder = windows
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes((folder / "checkpoints" / "step=2.ckpt").read_bytes())
    for name, value in TASK.items() | {("SLURM_JOB_ID", "7")}:
        monkeypatch.setenv(name, value)
    run = ["--config", path, f"--trainer.default_root_dir={tmp_path}", "--trainer.limit_val_batches=0"]
    with pytest.warns(UserWarning, match=r"hpc_ckpt_1\.ckpt is not used, since another SLURM job wrote it"):
        assert main(["fit", *run, "--trainer.max_steps=1"]) == 0


def test_wrong_numbers_stop_the_run_with_status_3(tmp_path, config, capsys):
    run = run_yaml(config, tmp_path / "run", accumulate_grad_batches=1, limit_train_batches=4)
    assert main(["fit", "--config", run, "--model.optimizer.init_args.lr", "1e30"]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvdiff fit: error:")]
    assert "is not finite at optimizer step 2; samples: room" in line
    assert not list((tmp_path / "run").glob("**/model"))
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
