"""The trainer commands, in this process, on a tiny run."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from mvdiff.cli.main import commands_of, main
from mvdiff.cli.train import MVDiffCLI
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.model_folder import read_model_info
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.samples import find_samples, read_sample, to_uint8
from mvdiff.training.evaluation_watch import EvaluationWatch
from mvdiff.training.progress import TrainingProgressBar
from mvdiff.training.watch import TrainingWatch
from tests.cli.last_lines import next_commands
from tests.training.tiny_run import tiny_config, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config(folder)
    config["trainer"]["default_root_dir"] = str(folder / "run")  # not the folder that tests are started in
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """Folder of a finished fit (one epoch, the best of two validations kept)."""
    folder = tmp_path_factory.mktemp("fit")
    run = copy.deepcopy(config)
    run["trainer"] |= {"max_epochs": 2, "limit_train_batches": 2, "default_root_dir": str(folder)}
    best = {"monitor": "val/overlap_psnr", "mode": "max", "filename": "best", "dirpath": str(folder)}
    run["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best})
    run["trainer"]["callbacks"][0]["init_args"] = {"dirpath": str(folder / "model")}
    assert main(["fit", "--config", str(write_config(folder / "run.yaml", run))]) == 0
    return folder


def test_fit_writes_its_best_checkpoint_as_a_model_folder(trained, config):
    info = read_model_info(trained / "model")
    assert info.base.id == config["model"]["init_args"]["base"]
    assert info.views["rig"].num_views == 3
    best = torch.load(trained / "best.ckpt", weights_only=True)
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(trained / "model")
    for name, value in pipeline.adapter.state_dict().items():
        assert torch.equal(best["state_dict"][f"adapter.{name}"], value)
    assert all(name.startswith("adapter.") for name in best["state_dict"])
    assert info.training.data == "EquirectangularDataModule"
    assert info.training.settings["optimizer steps"] == best["global_step"]
    assert info.training.settings["learning rate"] == 1e-2
    assert info.training.scores.keys() == {"val/overlap_psnr"}
    card = (trained / "model" / "README.md").read_text()
    assert f"| val/overlap_psnr | {info.training.scores['val/overlap_psnr']:.5g} |" in card
    assert str(trained) not in card


def test_a_folder_that_cannot_take_the_model_is_refused_before_training(config, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    run = copy.deepcopy(config)
    run["trainer"]["callbacks"][0]["init_args"] = {"dirpath": str(tmp_path / "thesis")}
    assert main(["fit", "--config", str(write_config(tmp_path / "run.yaml", run))]) != 0
    assert "model folder must be new, empty or an earlier model folder" in capsys.readouterr().err
    single = ["fit", "--config", "toy/base.yaml", f"--data.root={tmp_path}"]
    (tmp_path / "file").write_text("mine")
    assert main([*single, f"--model.out={tmp_path / 'file'}"]) != 0
    assert "model.out must lie in a folder that can be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run.yaml", "thesis"]


def test_fit_logs_to_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (trained / "lightning_logs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "val/overlap_psnr"} <= scalars
    assert [event.step for event in events.Images("val/samples")] == [2, 4]
    assert events.Images("val/samples")[0].width == 3 * 16
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["class_path"].endswith("MultiViewModule")


def test_neighbour_lists_travel_from_the_yaml_to_the_model_folder(config, tmp_path, capsys):
    run = copy.deepcopy(config)
    run["trainer"] |= {"max_steps": 1, "limit_val_batches": 1, "default_root_dir": str(tmp_path)}
    run["trainer"]["callbacks"][0]["init_args"] = {"dirpath": str(tmp_path / "model")}
    best = {"monitor": "val/loss", "dirpath": str(tmp_path)}
    run["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best})
    run["model"]["init_args"]["adapter"]["attention"]["init_args"]["neighbours"] = [[1], [2, 0], []]
    path = str(write_config(tmp_path / "run.yaml", run))
    assert main(["fit", "--config", path]) == 0
    said = capsys.readouterr().out
    assert next_commands(said) == ["generate panorama"]
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")
    trained = sum(parameter.numel() for parameter in pipeline.adapter.parameters())
    for text in (
        r"Training: MultiViewModule, task panorama",
        rf"trained +{trained:,} parameters \(adapter\)",
        r"frozen +[\d,]+ parameters \(of the base \S+/base\)",
        r"samples +6 for training, 2 for validation",
        r"batch +1 = 1 per device x 1 device x 1 node x 1 accumulated",
        r"steps +1 optimizer step; 0\.167 epochs of 6 steps",
        rf"run folder +{re.escape(str(tmp_path))}",
        rf"checkpoints +{re.escape(str(tmp_path))}/\S+\.ckpt: the lowest val/loss",
        rf"model folder +{re.escape(str(tmp_path / 'model'))}, when training ends: the best checkpoint",
        r"step 1/1  epoch 1/2  loss \S+  lr \S+  \S+ samples/s  \d+% waiting for data  peak memory ",
    ):
        assert re.search(text, said), (text, said)
    assert pipeline.adapter.mid_block.neighbours == [[1], [2, 0], []]
    assert main(["fit", "--config", path, "--model.adapter.attention.init_args.neighbours=[[1],[0]]"]) == 1
    error = capsys.readouterr().err
    assert "neighbours must have one list per view (3); got 2 lists" in error
    assert "Traceback" not in error
    assert main(["fit", "--config", path, "--model.adapter.attention.neighbours=[[1],[3],[0]]"]) == 1
    assert "neighbours of view 1 must be other views from 0 to" in capsys.readouterr().err


def test_predict_writes_what_generate_would(trained, config, tmp_path):
    run = str(write_config(tmp_path / "run.yaml", config))
    checkpoint = ["--ckpt_path", str(trained / "best.ckpt"), "--model.init_args.output.dir", str(tmp_path / "out")]
    assert main(["predict", "--config", run, *checkpoint]) == 0
    folders = find_samples(tmp_path / "out")
    assert [folder.name for folder in folders] == ["room8", "room9"]
    sample = read_sample(folders[0])
    assert sample.record.prompts[0] == "a red lamp 8"
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(trained / "model")
    same = pipeline(
        [sample.record.prompts],
        seed=sample.record.seed,
        sample_ids=["room8"],
        num_inference_steps=2,
        guidance_scale=9.0,
        output_type="uint8",
    )
    assert torch.equal(sample.images_uint8(), same.images[0].permute(0, 3, 1, 2))
    written = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*"))]
    assert main(["predict", "--config", run, *checkpoint]) == 0  # all complete: nothing to do
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*"))] == written


def test_test_generates_scores_and_logs(trained, config, tmp_path, capsys):
    run = copy.deepcopy(config)
    run["trainer"]["default_root_dir"] = str(tmp_path)
    run["model"]["init_args"]["output"] = {"metrics": ["overlap_psnr"], "evaluation": {"overlap_size": 0}}
    run = str(write_config(tmp_path / "run.yaml", run))
    assert main(["test", "--config", run, "--ckpt_path", str(trained / "best.ckpt")]) == 0
    (results,) = tmp_path.rglob("results.json")
    assert results.parent.name == "samples"
    assert "results.json into samples/ in the run's folder" in commands_of("test")[0].description
    metric = json.loads(results.read_text())["metrics"]["overlap_psnr_mean_of_pairs"]
    assert 5 < metric["value"] < 40
    said = capsys.readouterr().out
    scored = [line.split("  ")[0] for line in said.splitlines() if line.startswith("test: scoring, generated")]
    assert scored == ["test: scoring, generated sample 1/2", "test: scoring, generated sample 2/2"]
    assert f"{metric['value']:.3f}"[:5] in said
    assert next_commands(said) == ["report"]
    for name in ("generated", "reference"):
        assert [folder.name for folder in find_samples(results.parent / name)] == ["room8", "room9"]
    reference = read_sample(results.parent / "reference" / "room8")
    assert reference.record.seed is None
    rig = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
    data = EquirectangularDataModule(config["data"]["init_args"]["root"], rig=rig)
    assert torch.equal(reference.images_uint8(), to_uint8(data.test_dataset()[0]["images"]))


def test_validate_runs_on_a_checkpoint(trained, config, tmp_path, capsys):
    run = str(write_config(tmp_path / "run.yaml", config))
    arguments = ["--ckpt_path", str(trained / "best.ckpt"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["validate", "--config", run, *arguments]) == 0
    said = capsys.readouterr().out
    assert "val/overlap_psnr" in said
    assert next_commands(said) == ["test"]


@pytest.mark.parametrize(
    ("where", "key", "value", "text"),
    [
        (("model", "init_args"), "kernel_sise", 3, "MultiViewModule has no setting kernel_sise."),
        (("model", "init_args", "sampling"), "etta", 3, "no setting sampling.etta (did you mean sampling.eta?)"),
        (
            ("model", "init_args", "output", "evaluation"),
            "seeed",
            3,
            "EvaluationSettings has no setting seeed (did you",
        ),
        (("data",), "init_arg", {"root": "x"}, "no setting data.init_arg (did you mean init_args?)"),
        (("data", "init_args", "rig", "init_args"), "hight", 3, "RingRig has no setting hight (did you mean height?)"),
        (
            ("model", "init_args", "adapter", "attention", "init_args"),
            "kernel_sise",
            3,
            "unknown kernel_sise (did you mean kernel_size?)",
        ),
        (("model", "init_args", "adapter", "attention", "init_args"), "kernel_size", 2, "kernel_size must be odd"),
        (("model", "init_args"), "task", "pano", "task must be one of panorama, outpaint, depth"),
        (("model", "init_args"), "cache", {"latents": True}, "cache.dir must be a folder when cache.latents is true"),
        (("trainer",), "max_epoch", 3, "there is no setting trainer.max_epoch (did you mean trainer.max_epochs?)"),
        ((), "nonsense", 1, "no setting nonsense."),
        (("data", "init_args"), "num_val", -1, "num_val must be at least 0; got -1"),
        (("data", "init_args"), "root", "no/such/folder", "no/such/folder"),
        (("model", "init_args"), "base", "no/such/base", "base must be"),
        ((), "total_batch_size", 3, None),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(config, tmp_path, capsys, where, key, value, text):
    run = copy.deepcopy(config)
    place = run
    for name in where:
        place = place.setdefault(name, {})
    place[key] = value
    if key == "total_batch_size":
        run["data"]["init_args"]["batch_size"] = 2
        text = "total_batch_size must be a positive multiple of data.batch_size x devices x nodes = 2 x 1 = 2; got 3"
    assert main(["fit", "--config", str(write_config(tmp_path / "run.yaml", run))]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvdiff fit: error:")]
    assert text in line


def test_a_checkpoint_of_another_model_is_one_line(config, tmp_path, capsys):
    torch.save(
        {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 0}, tmp_path / "x.ckpt"
    )
    run = str(write_config(tmp_path / "run.yaml", config))
    assert main(["predict", "--config", run, "--ckpt_path", str(tmp_path / "x.ckpt")]) == 1
    assert "a checkpoint of another model" in capsys.readouterr().err


def error_line(capsys, *arguments) -> str:
    """What a command that must fail says: one line, no traceback."""
    assert main(list(arguments)) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith(f"mvdiff {arguments[0]}: error:")]
    return line


def test_a_file_that_is_no_checkpoint_is_one_line(config, tmp_path, capsys):
    run = str(write_config(tmp_path / "run.yaml", config))
    broken, plain = tmp_path / "broken.ckpt", tmp_path / "plain.ckpt"
    broken.write_bytes(b"no zip file")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, plain)
    for path, text in ((broken, "must be a zip archive"), (plain, "without optimizer_states, loops: ")):
        line = error_line(capsys, "fit", "--config", run, "--ckpt_path", str(path))
        assert text in line
        assert str(path) in line


def test_a_checkpoint_of_another_kind_of_model_is_one_line(trained, config, tmp_path, capsys):
    vae = json.loads((Path(config["model"]["init_args"]["base"]) / "vae" / "config.json").read_text())
    vae = {name: vae[name] for name in ("block_out_channels", "down_block_types", "up_block_types", "norm_num_groups")}
    other = config | {
        "model": {
            "class_path": "mvdiff.training.autoencoder.AutoencoderModule",
            "init_args": {"out": str(tmp_path / "vae"), "vae": vae},
        }
    }
    other["trainer"] = {**other["trainer"], "callbacks": [], "default_root_dir": str(tmp_path)}
    run = str(write_config(tmp_path / "run.yaml", other))
    line = error_line(capsys, "validate", "--config", run, "--ckpt_path", str(trained / "best.ckpt"))
    assert "--ckpt_path must hold exactly the weights of the model; got a checkpoint of another model: " in line
    assert "AutoencoderModule" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_one_line(config, tmp_path, capsys):
    run = str(write_config(tmp_path / "run.yaml", config))
    assert "CUDAAccelerator" in error_line(capsys, "fit", "--config", run, "--trainer.accelerator", "cuda")


def test_a_score_that_nobody_gives_is_one_line(config, tmp_path, capsys):
    run = copy.deepcopy(config)
    run["trainer"] |= {"max_epochs": 1, "limit_train_batches": 1, "default_root_dir": str(tmp_path)}
    best = {"monitor": "val/overlap_psnr", "mode": "max"}
    keep = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best}]
    run["trainer"]["callbacks"] = keep
    run["model"]["init_args"]["num_validation_samples"] = 0
    line = error_line(capsys, "fit", "--config", str(write_config(tmp_path / "run.yaml", run)))
    assert "ModelCheckpoint.monitor ('val/overlap_psnr') is not logged in this run. Logged: train/" in line
    best["monitor"], run["trainer"]["limit_val_batches"] = "val/loss", 0
    line = error_line(capsys, "fit", "--config", str(write_config(tmp_path / "run.yaml", run)))
    assert "('val/loss') is not logged in this run, which has no validation. Logged: train/" in line
    assert not list(tmp_path.rglob("*.ckpt")), "it is said before the first step"


class Parsed(MVDiffCLI):
    """The command line up to the trainer, without running it."""

    def _run_subcommand(self, subcommand):
        pass


def test_total_batch_size_sets_the_accumulation(config, tmp_path):
    run = str(write_config(tmp_path / "run.yaml", config))
    cli = Parsed(["fit", "--config", run, "--total_batch_size=6", "--data.init_args.batch_size=2"])
    assert cli.trainer.accumulate_grad_batches == 3
    assert Parsed(["fit", "--config", run]).trainer.accumulate_grad_batches == 1
    with pytest.raises(ValueError, match=r"trainer\.accumulate_grad_batches must be left at 1"):
        Parsed(["fit", "--config", run, "--total_batch_size=2", "--trainer.accumulate_grad_batches=2"])


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_only_fit_needs_a_total_batch_size_that_divides(config, tmp_path, command):
    run = str(write_config(tmp_path / "run.yaml", config))
    cli = Parsed([command, "--config", run, "--total_batch_size=3", "--data.init_args.batch_size=2"])
    assert cli.trainer.accumulate_grad_batches == 1


def test_a_launcher_that_started_other_processes_is_refused(config, tmp_path, monkeypatch):
    run = str(write_config(tmp_path / "run.yaml", config))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"number of launched processes, 2 \(WORLD_SIZE\); got 1"):
        Parsed(["fit", "--config", run])


def test_a_terminal_has_a_bar_and_a_log_file_has_lines(config, tmp_path, monkeypatch):
    run = str(write_config(tmp_path / "run.yaml", config))

    def parsed(command, *arguments):
        trainer = Parsed([command, "--config", run, *arguments]).trainer
        watches = [one for one in trainer.callbacks if isinstance(one, TrainingWatch | EvaluationWatch)]
        return trainer.progress_bar_callback, watches

    off, own = "--trainer.enable_progress_bar=false", "mvdiff.training.watch.TrainingWatch"
    bar, (watch,) = parsed("fit")
    assert (bar, watch.lines) == (None, True)
    bar, (watch,) = parsed("fit", off)
    assert (bar, watch.lines) == (None, False)
    bar, (watch,) = parsed("fit", f"--trainer.callbacks+={own}", "--trainer.callbacks.every_n_steps=7")
    assert (bar, watch.lines, watch.every_n_steps) == (None, True, 7)
    for command in ("validate", "test", "predict"):
        bar, (watch,) = parsed(command)
        assert (bar, type(watch)) == (None, EvaluationWatch)
    assert parsed("predict", off) == (None, [])
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's way to call any output a terminal
    bar, (watch,) = parsed("fit")
    assert (type(bar), watch.lines) == (TrainingProgressBar, False)
    assert parsed("fit", off)[0] is None
    bar, watches = parsed("predict")
    assert (type(bar), watches) == (TrainingProgressBar, [])
