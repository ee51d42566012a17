"""`mvdiff doctor` in this process, on tiny runs that are ready, broken in one place, or without their weights."""

import copy
import json
import re
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from mvdiff.cli.main import main
from mvdiff.eval.weights import file_hash
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.run_files import configs_folder
from tests.pipelines.hub_server import COMMIT, local_hub
from tests.shared_files import telling
from tests.tiny import tiny_base
from tests.training.tiny_run import tiny_config, write_config


class PlainData(LightningDataModule):
    """A user's data module: six rows."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(6, 3)), batch_size=2)


class PlainModule(LightningModule):
    """A user's module, which logs a picture and writes a file where a fit ends."""

    def __init__(self, out: str):
        super().__init__()
        self.layer, self.out = torch.nn.Linear(3, 1), out

    def training_step(self, batch, batch_idx):
        self.log("loss", 0.0)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_end(self):
        Path(self.out).write_text("trained")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_config(folder, output={"metrics": ["overlap_psnr"]})


@pytest.fixture
def config(shared, tmp_path, monkeypatch):
    """A run's config, in an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return copy.deepcopy(shared[1])


def doctor(tmp_path, config, *options) -> tuple[int, dict[str, list[dict]]]:
    """Exit status and findings by section."""
    report = tmp_path / "report.json"
    run = config if isinstance(config, str) else str(write_config(tmp_path / "run.yaml", config))
    status = main(["doctor", "--config", run, "--json", str(report), *options])
    return status, json.loads(report.read_text())["findings"]


def of_status(findings, status) -> list[str]:
    return [f["text"] + " -> " + f["remedy"] for section in findings.values() for f in section if f["status"] == status]


def texts(findings, section) -> str:
    return "\n".join(finding["text"] for finding in findings[section])


def files(*folders) -> set[Path]:
    return {path for folder in folders for path in Path(folder).rglob("*")}


def test_a_run_that_is_ready(config, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    config["total_batch_size"] = 2
    config["model"]["init_args"]["cache"] = {"dir": "cache"}
    ema = {"class_path": "mvdiff.training.ema.TrainedWeightsEMA"}
    best = {"every_n_train_steps": 1, "dirpath": "kept"}
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best}
    config["trainer"]["callbacks"] += [ema, saving]
    before = files(*shared[:1], ".", tmp_path / "scratch")
    status, findings = doctor(tmp_path, config)
    assert files(*shared[:1], ".", tmp_path / "scratch") == before
    output = capsys.readouterr()
    assert (status, of_status(findings, "problem"), output.err) == (0, [], "")
    assert output.out.splitlines()[-1] == f"ready: mvdiff fit --config {tmp_path / 'run.yaml'}"
    (unet,) = (shared[0] / "base" / "unet").glob("*.safetensors")
    assert f"{unet} (" in output.out
    assert f"base, unet: {unet.name} (" in texts(findings, "Weights")
    assert not telling(tmp_path / "report.json", tmp_path, shared[0])  # the file tells no paths
    assert file_hash(unet)[:16] in texts(findings, "Weights")
    assert "6 train, 2 validation, 2 test samples" in texts(findings, "Data")
    assert "effective batch 2 = 1 per device x 1 device x 1 node x 2 accumulated" in texts(findings, "Run")
    assert "6 batches per epoch and device (6 samples), 3 optimizer steps per epoch; 6 in all" in texts(findings, "Run")
    assert "validation after every epoch, 2 in all" in texts(findings, "Run")
    assert all(f"to {place}" in texts(findings, "Run") for place in ("kept", "cache"))
    assert [finding["status"] for finding in findings["One step"]] == ["ok", "ok"]


def test_a_score_that_nobody_gives_is_a_problem(config, tmp_path, capsys):
    watch = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/lss"}}
    config["trainer"]["callbacks"] += [watch]
    status, findings = doctor(tmp_path, config, "--no_step")
    assert status == 1
    (problem,) = of_status(findings, "problem")
    assert "EarlyStopping.monitor ('val/lss') is not logged in this run" in problem
    watch["init_args"]["monitor"] = "val/loss"
    config["data"]["init_args"]["num_val"] = 0
    status, findings = doctor(tmp_path, config, "--no_step")
    assert "EarlyStopping.monitor ('val/loss') is not logged in this run, which has no validation" in texts(
        findings, "Run"
    )


def test_damage_of_shards_that_costs_no_sample_is_a_warning(config, tmp_path, capsys):
    data = config["data"]["init_args"]
    assert main(["data", "shard", data["root"], "--out", "shards"]) == 0
    data["root"] = "shards"
    tar = Path("shards/train-000000.tar")
    content = bytearray(tar.read_bytes())
    content[10] ^= 1  # in the header of the first member
    tar.write_bytes(content)
    status, findings = doctor(tmp_path, config, "--no_step", "--all_data")
    assert status == 0
    (warning,) = [text for text in of_status(findings, "warning") if "every shard" in text]
    assert f"damaged headers: {tar}" in warning
    assert "write the shards again" in warning
    assert "max_damaged" not in warning
    Path("shards/test-000000.tar").unlink()
    status, findings = doctor(tmp_path, config, "--no_step", "--all_data")
    assert status == 1
    (problem,) = [text for text in of_status(findings, "problem") if "every shard" in text]
    assert "missing shard" in problem
    assert "damaged headers" not in problem


def test_one_of_a_kind_is_said_in_the_singular(config, tmp_path, capsys):
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 1}
    _, findings = doctor(tmp_path, config, "--no_step")
    one = "1 batch per epoch and device (1 sample), 1 optimizer step per epoch; 1 in all, 1 epoch"
    assert one in texts(findings, "Run").splitlines()


def test_a_schedule_per_epoch_is_shown_in_the_steps_that_it_follows(config, tmp_path, capsys):
    config["trainer"] |= {"max_epochs": 6, "max_steps": 9}
    _, findings = doctor(tmp_path, config, "--no_step")
    assert "WarmupCosine per step: learning rate 0.01 at first, 0.01 at step 0" in texts(findings, "Run")


@pytest.mark.parametrize(
    ("trainer", "total"),
    [
        ({"max_epochs": 2, "limit_train_batches": 0.9}, 2),
        ({"max_steps": 5, "max_epochs": 9}, 1),
        ({"max_epochs": 1}, 3),
    ],
)
def test_steps_are_those_that_fit_makes(config, tmp_path, trainer, total, capsys):
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    config["trainer"] |= trainer | {"callbacks": [saving], "limit_val_batches": 0}
    config["total_batch_size"] = total
    status, findings = doctor(tmp_path, config, "--no_step")
    assert main(["fit", "--config", str(tmp_path / "run.yaml")]) == 0
    (checkpoint,) = tmp_path.glob("*.ckpt")
    assert f"; {read_checkpoint(checkpoint)['global_step']} in all" in texts(findings, "Run")
    assert "no validation" in texts(findings, "Run")
    assert [f["status"] for f in findings["One step"]] == ["not checked", "ok"]
    assert status == 0


def test_everything_that_is_broken_is_named_at_once(config, tmp_path, shared, capsys):
    broken = tmp_path / "data"
    shutil.copytree(shared[0] / "data", broken)
    (broken / "room1.png").write_bytes(b"no image")
    (broken / "room2.json").unlink()
    config["data"]["init_args"]["root"] = str(broken)
    config["total_batch_size"] = 3
    config["data"]["init_args"]["batch_size"] = 2
    config["model"]["init_args"]["base"] = "nobody/no-such-base"
    config["trainer"]["default_root_dir"] = str(tmp_path / "run.yaml" / "inside")
    status, findings = doctor(tmp_path, config)
    problems = of_status(findings, "problem")
    assert status == 1
    assert any("hf download nobody/no-such-base" in text for text in problems)
    assert any("room1.png" in text and "mvdiff data check" in text for text in problems)
    assert any("missing caption" in text and "room2.json" in text for text in problems)
    assert any("total_batch_size" in text and "2 x 1 = 2; got 3" in text for text in problems)
    assert any("run.yaml is a file" in text for text in problems)
    assert texts(findings, "Model").startswith("model: it needs what is missing above")
    assert all(finding["status"] == "not checked" for finding in findings["One step"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"not ready, {len(problems)} problems")


def test_missing_data_and_an_incomplete_base(config, tmp_path, shared, capsys):
    shutil.copytree(shared[0] / "base", tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "vae")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    config["model"]["init_args"]["base"] = str(tmp_path / "base")
    config["data"]["init_args"]["root"] = "no/such/folder"
    status, findings = doctor(tmp_path, config)
    problems = of_status(findings, "problem")
    assert status == 1
    assert any(text.startswith("data.root must be a folder; got no/such/folder") for text in problems)
    assert any("base, vae" in text and "does not exist" in text for text in problems)
    assert any("base, unet" in text and "no weights" in text for text in problems)


def test_a_checkpoint_is_tried_on_the_model(config, tmp_path, capsys):
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    trained = copy.deepcopy(config)
    trained["trainer"] |= {"max_steps": 1, "callbacks": [saving], "limit_val_batches": 0}
    assert main(["fit", "--config", str(write_config(tmp_path / "trained.yaml", trained))]) == 0
    (checkpoint,) = tmp_path.glob("*.ckpt")
    options = ("--no_step", "--ckpt_path", str(checkpoint))
    status, findings = doctor(tmp_path, config, *options)
    assert status == 0
    assert "step 1, epoch 0" in texts(findings, "Weights")
    tiny_base(tmp_path / "other", seed=1)
    config["model"]["init_args"]["base"] = str(tmp_path / "other")
    status, findings = doctor(tmp_path, config, *options)
    assert status == 1
    assert any("got other" in text for text in of_status(findings, "problem"))
    checkpoint.write_bytes(b"no checkpoint")
    status, findings = doctor(tmp_path, config, *options)
    assert status == 1
    assert any(checkpoint.name in text for text in of_status(findings, "problem"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("devices", ["1", "4"])
def test_missing_devices_are_a_warning(config, tmp_path, devices, capsys):
    config["data"]["init_args"]["num_val"] = 4
    options = ("--trainer.accelerator", "gpu", "--trainer.devices", devices, "--trainer.num_nodes", "2")
    status, findings = doctor(tmp_path, config, *options)
    assert status == 0
    assert any(f"{devices} x gpu on each of 2 nodes; here: 0 x gpu" in text for text in of_status(findings, "warning"))
    assert f"effective batch {2 * int(devices)} = " in texts(findings, "Run")
    assert "the training step: it needs a gpu" in texts(findings, "One step")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ready, with 1 warning: mvdiff fit")
    assert last.endswith(" ".join(options))


def test_a_device_of_a_sharded_run_holds_its_share(config, tmp_path, capsys):
    def memory(*options):
        options = ("--no_step", "--trainer.accelerator", "cpu", "--trainer.devices", "2", *options)
        text = texts(doctor(tmp_path, config, *options)[1], "One step")
        units = {"KiB": 1, "MiB": 1024}
        parts = re.findall(r"([\d.]+) (KiB|MiB) ([a-zA-Z][a-zA-Z ]*?)(?= [+=])", text)
        return {name: float(value) * units[unit] for value, unit, name in parts}

    whole, sharded = memory(), memory("--config", "overlay/sharded.yaml")
    base_alone = memory("--config", "overlay/sharded.yaml", "--model.memory.shard_adapter", "false")
    assert whole.keys() == {"weights", "gradients", "optimizer", "buckets of DDP"}
    assert sharded.keys() == base_alone.keys() == {"weights", "gradients", "optimizer", "gathered encoders"}
    for name in ("weights", "gradients", "optimizer"):
        assert sharded[name] == pytest.approx(whole[name] / 2, rel=0.1)
    assert base_alone["gradients"] == whole["gradients"]
    assert base_alone["weights"] == pytest.approx((whole["weights"] + whole["gradients"]) / 2, rel=0.1)


@pytest.mark.parametrize(
    ("scheduler", "fits"),
    [
        ({"class_path": "CosineAnnealingLR", "init_args": {"T_max": 3}}, False),  # rises again
        ({"class_path": "OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 5}}, False),  # raises at its end
        ({"class_path": "OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 6}}, True),
    ],
)
def test_a_schedule_of_another_length_than_the_run(config, tmp_path, scheduler, fits, capsys):
    scheduler["class_path"] = f"torch.optim.lr_scheduler.{scheduler['class_path']}"
    config["model"]["init_args"] |= {"lr_scheduler": scheduler, "lr_interval": "epoch"}
    config["trainer"]["max_epochs"] = 6
    _, findings = doctor(tmp_path, config, "--no_step")
    doubts = of_status(findings, "warning") + of_status(findings, "problem")
    assert any("6 epochs" in text for text in doubts) != fits
    assert ("0.0994 at epoch 1, 4e-07 at the last" in texts(findings, "Run")) == fits


@pytest.mark.parametrize("name", ["pano.yaml", "outpaint.yaml", "depth_stage1.yaml", "depth_stage2.yaml"])
def test_paper_runs_name_every_missing_thing_at_once(config, tmp_path, name, capsys):
    status, findings = doctor(tmp_path, name)
    problems = of_status(findings, "problem")
    run = (configs_folder() / name).read_text()
    (base,) = (line.split()[1] for line in run.splitlines() if line.strip().startswith("base:"))
    remedy = f"hf download {base}" if base.startswith("sd2") else "mvdiff fit --config depth_stage1.yaml writes it"
    assert status == 1
    assert len(problems) == 2
    assert base in problems[0]
    assert remedy in problems[0]
    assert problems[1].startswith("data.root must be a folder; got data/")


def test_nothing_is_downloaded(config, tmp_path, monkeypatch, capsys):
    def connect(*args):
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config["model"]["init_args"] |= {"base": "nobody/no-such-base", "output": {"metrics": ["fid", "clip_score"]}}
    status, findings = doctor(tmp_path, config)
    assert status == 1
    assert len(of_status(findings, "problem")) == 1
    assert [text.split(": ")[0].split()[-1] for text in of_status(findings, "warning")] == ["fid", "clip_score"]
    assert constants.HF_HUB_OFFLINE is False
    assert not (tmp_path / "torch").exists()


def test_classes_of_a_user(config, tmp_path, capsys):
    out = tmp_path / "written"
    own = {
        "trainer": {"accelerator": "cpu", "max_epochs": 3},
        "model": {"class_path": f"{__name__}.PlainModule", "init_args": {"out": str(out)}},
        "data": {"class_path": f"{__name__}.PlainData"},
    }
    status, findings = doctor(tmp_path, own)
    assert status == 0
    assert "3 batches per epoch and device, 3 optimizer steps per epoch; 9 in all" in texts(findings, "Run")
    assert "4 parameters are trained" in texts(findings, "Model")
    assert "one training step in" in texts(findings, "One step")
    assert not out.exists()
    assert files(".") == set()


def test_settings_that_do_not_exist_stop_the_command(config, tmp_path, capsys):
    config["trainer"]["max_epoch"] = 3
    assert main(["doctor", "--config", str(write_config(tmp_path / "run.yaml", config))]) == 1
    assert "trainer.max_epoch" in capsys.readouterr().err


def test_help_explains_the_options(capsys):
    assert main(["doctor", "--help"]) == 0
    output = capsys.readouterr().out
    assert all(option in output for option in ("--config", "--all_data", "--no_step", "--json", "mvdiff fit"))


def test_a_base_of_the_hub_without_a_commit_is_a_warning(config, tmp_path, monkeypatch, capsys):
    base = Path(config["model"]["init_args"]["base"])
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        files = {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}
        hub.repos["owner/base"] = files
        load_backbone("owner/base")  # fills the cache
    for settings, status, text in (
        ({"base": "owner/base"}, "warning", f"base: no revision of owner/base, now commit {COMMIT}"),
        (
            {"base": "owner/base", "revision": "main"},
            "warning",
            f"base: revision main of owner/base, now commit {COMMIT}",
        ),
        ({"base": f"owner/base@{COMMIT}"}, "ok", f"base: commit {COMMIT} of owner/base"),
    ):
        config["model"]["init_args"] |= {"revision": None, **settings}
        _, findings = doctor(tmp_path, config, "--no_step")
        assert any(one["status"] == status and one["text"].startswith(text) for one in findings["Weights"])
    assert f"--model.revision {COMMIT} keeps it." in capsys.readouterr().out
