"""One job, however it is started: launchers give the weights of a single process; a killed run resumes exactly."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mvdiff.models.backbone import load_backbone
from mvdiff.samples import find_samples, read_sample
from tests.forked import KILLED, TWO_RANKS, free_port, run_command
from tests.launched import RANK, TORCHRUN, said, serve_ranks
from tests.training.tiny_run import tiny_config, write_config

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def words(folder: Path, *flags: str, subcommand: str = "fit") -> list[str]:
    """Return the words after `mvdiff` of a run whose folder is given."""
    return [subcommand, "--config", f"{folder.parent}/run.yaml", "--trainer.default_root_dir", str(folder), *flags]


def launched(commands: list[list[str]], folder: Path, flags: list[str]) -> None:
    """Fit in processes that launchers start, one launcher per node."""
    nodes, logs = [], folder.with_name(f"{folder.name}_logs")
    logs.mkdir()
    with (logs / "launchers").open("a") as output, serve_ranks(logs) as environment:
        try:
            for command in commands:
                line = [*command, str(RANK), *words(folder, *flags)]
                nodes.append(subprocess.Popen(line, env=environment, stdout=output, stderr=output))
            statuses = [node.wait(300) for node in nodes]
        finally:
            for node in nodes:
                node.terminate()  # a launcher ends its processes
    assert statuses == [0] * len(nodes), (logs / "launchers").read_text()[-3000:] + said(logs)[-6000:]


def forked(folder: Path, *flags: str, subcommand: str = "fit", **how: int) -> None:
    """Run `mvdiff` in one process or in two ranks."""
    run_command(folder.with_name(f"{folder.name}.log"), *words(folder, *flags, subcommand=subcommand), **how)


def final_checkpoint(folder: Path) -> dict:
    (path,) = folder.rglob("end.ckpt")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with run.yaml: two epochs of two optimizer steps of two samples, with EMA and a checkpoint each step."""
    folder = tmp_path_factory.mktemp("runs")
    config = copy.deepcopy(tiny_config(folder))
    config["total_batch_size"] = 2
    config["data"]["init_args"] |= {"max_samples": 4, "num_val": 0}
    config["trainer"] |= {"logger": False, "enable_progress_bar": False}
    every_step = {"every_n_train_steps": 1, "save_top_k": -1, "save_on_train_epoch_end": False}
    keep = "lightning.pytorch.callbacks.ModelCheckpoint"
    config["trainer"]["callbacks"] = [
        {"class_path": "mvdiff.training.ema.TrainedWeightsEMA", "init_args": {"decay": 0.5}},
        {"class_path": keep, "init_args": {"filename": "end", "every_n_epochs": 2}},
        {"class_path": keep, "init_args": {"filename": "{step}", **every_step}},
    ]
    write_config(folder / "run.yaml", config)
    return folder


@pytest.fixture(scope="module")
def single(runs):
    """The final checkpoint of one process that accumulates two batches of one sample."""
    forked(runs / "single")
    return final_checkpoint(runs / "single")


def launchers(port: int) -> dict[str, tuple[list[list[str]], list[str]]]:
    """Return the commands that start two processes, one command per node, and flags of `mvdiff`."""
    fabric = [str(Path(sys.executable).with_name("fabric")), "run", "--devices=2", "--accelerator=cpu"]
    torchrun = [*TORCHRUN, "--master_addr=127.0.0.1", f"--master_port={port}"]
    nodes = [[*torchrun, "--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1"] for rank in range(2)]
    return {
        "fabric_run": ([[*fabric, f"--main_port={port}"]], []),
        "torchrun": ([[*torchrun, "--nproc_per_node=2"]], []),
        "torchrun_on_two_nodes": (nodes, []),
        "trainer_devices": ([[sys.executable]], [*TWO_RANKS]),
    }


@pytest.mark.parametrize("name", launchers(0))
def test_every_launcher_trains_one_job(runs, single, name):
    commands, flags = launchers(free_port())[name]
    launched(commands, runs / name, flags)
    together = final_checkpoint(runs / name)
    assert together["global_step"] == single["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        assert together[part].keys() == single[part].keys()
        for key, value in single[part].items():
            torch.testing.assert_close(together[part][key], value, rtol=1e-3, atol=2e-5)


def killed_and_resumed(runs: Path, single: dict, name: str, flags: list[str]) -> None:
    """Kill a run after its third step, resume it, and compare what it ends with."""
    forked(runs / f"{name}killed", *flags, killed_at=3, status=KILLED)
    (checkpoint,) = (runs / f"{name}killed").rglob("step=3.ckpt")  # in the middle of the second epoch
    assert not list((runs / f"{name}killed").rglob("end.ckpt"))
    forked(runs / f"{name}resumed", *flags, "--ckpt_path", str(checkpoint))
    resumed = final_checkpoint(runs / f"{name}resumed")
    assert resumed["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        for key, value in single[part].items():
            assert torch.equal(resumed[part][key], value), key
    assert not all(torch.equal(single["state_dict"][k], v) for k, v in single["current_model_state"].items())


def test_a_killed_run_resumes_bit_for_bit(runs, single):
    killed_and_resumed(runs, single, "", [])


@pytest.fixture(scope="module")
def base_flags(runs):
    """Put the training of base and text encoder, views one by one, in the place of the attention's."""
    init_args = {
        "base": str(runs / "base"),
        "out": str(runs / "out"),
        "train_text_encoder": True,
        "text_dropout": 0.5,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    }
    config = yaml.safe_load((runs / "run.yaml").read_text())
    config["model"] = {"class_path": "mvdiff.training.single_view.SingleViewModule", "init_args": init_args}
    config["trainer"]["callbacks"][0]["init_args"]["warm_up"] = True
    write_config(runs / "base.yaml", config)
    return ["--config", str(runs / "base.yaml")]


@pytest.fixture(scope="module")
def single_base(runs, base_flags):
    """The final checkpoint of one process that trains a base."""
    forked(runs / "base_single", *base_flags)
    return final_checkpoint(runs / "base_single")


def test_a_killed_training_of_a_base_resumes_bit_for_bit(runs, base_flags, single_base):
    written = load_backbone(runs / "out").unet.state_dict()
    average = {name.removeprefix("trained_modules.unet."): value for name, value in single_base["state_dict"].items()}
    assert all(torch.equal(value, average[name]) for name, value in written.items())
    killed_and_resumed(runs, single_base, "base_", base_flags)
    resumed = load_backbone(runs / "out").unet.state_dict()
    assert all(torch.equal(value, written[name]) for name, value in resumed.items())


def test_two_processes_train_the_base_of_one(runs, base_flags, single_base):
    forked(runs / "base_two", *base_flags, ranks=2)
    together = final_checkpoint(runs / "base_two")
    for part in ("state_dict", "current_model_state"):
        assert together[part].keys() == single_base[part].keys()
        for key, value in single_base[part].items():
            torch.testing.assert_close(together[part][key], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("subcommand", ["predict", "test"])
def test_two_processes_write_every_panorama_once(runs, single, subcommand):
    """Each rank writes its half, the images are those of one process, and one of them scores both halves."""
    (checkpoint,) = (runs / "single").rglob("end.ckpt")
    flags = [
        "--ckpt_path",
        str(checkpoint),
        "--model.output.metrics=[overlap_psnr]",
        "--model.output.evaluation.overlap_size=0",
    ]
    images, results = [], []
    for name, ranks in (("one", 1), ("two", 2)):
        out = runs / f"{subcommand}_{name}"
        forked(out, *flags, "--model.output.dir", str(out), subcommand=subcommand, ranks=ranks)
        folders = find_samples(out / "generated" if subcommand == "test" else out)
        assert [folder.name for folder in folders] == ["room8", "room9"]
        images.append(torch.stack([read_sample(folder).images_uint8() for folder in folders]))
        results += [json.loads(path.read_text())["metrics"] for path in out.rglob("results.json")]
    assert torch.equal(*images)
    assert not torch.equal(images[0][0], images[0][1])
    assert (subcommand == "test") == bool(results)
    assert all(result == results[0] for result in results)
