"""Old names of settings are one error that says the new ones, in files and on the command line."""

import copy
from importlib import import_module

import pytest
import yaml

from mvdiff.cli.main import main
from mvdiff.cli.renamed import RENAMED_CLASSES, RENAMED_SETTINGS, check_names
from tests.training.tiny_run import tiny_config, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("tiny"))


def error_of(capsys, *arguments):
    assert main(list(arguments)) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("mvdiff fit: error:")]
    return line


def test_old_keys_of_a_file_are_one_error_with_all_the_new_ones(config, tmp_path, capsys):
    old = copy.deepcopy(config)
    old["model"]["init_args"] |= {"kernel_size": 3, "cache_dir": None, "evaluation": {"overlap_size": 0}}
    old["data"]["init_args"]["prompt_prefix"] = ""
    path = write_config(tmp_path / "old.yaml", old)
    line = error_of(capsys, "fit", "--config", str(path))
    assert str(path) in line
    for name in ("model.kernel_size", "model.cache_dir", "model.evaluation", "data.prompt_prefix"):
        assert f"{name} is now {RENAMED_SETTINGS[name]}" in line


@pytest.mark.parametrize("flag", ["--model.kernel_size=3", "--model.init_args.kernel_size=3", "--model.kernel_size 3"])
def test_old_keys_of_the_command_line(config, tmp_path, capsys, flag):
    path = write_config(tmp_path / "run.yaml", config)
    line = error_of(capsys, "fit", "--config", str(path), *flag.split())
    assert "model.kernel_size is now model.adapter.attention.init_args.kernel_size, on the command line" in line


@pytest.mark.parametrize("old", RENAMED_CLASSES)
def test_old_classes(config, tmp_path, capsys, old):
    run = copy.deepcopy(config)
    run["model"]["class_path"] = old
    line = error_of(capsys, "fit", "--config", str(write_config(tmp_path / "run.yaml", run)))
    assert f"{old} is now {RENAMED_CLASSES[old]}" in line
    assert RENAMED_CLASSES[old] in error_of(capsys, "fit", "--model", old)


@pytest.mark.parametrize("new", sorted(RENAMED_CLASSES.values()))
def test_the_new_classes_are_there(new):
    module, _, name = new.split()[0].rpartition(".")
    assert isinstance(getattr(import_module(module), name), type)


def test_the_new_keys_are_taken(tmp_path, capsys):
    """Every new key of the table, with a value that is not its default, is a setting of a run."""
    values = {"neighbours": "[[1],[0]]", "wavelengths": "[1.0,8.0]", "mid_place": "after_mid_block", "dir": "x"}
    values |= {"min_overlap": "0.2", "guidance_scale": "2.5", "prompt_prefix": "p", "metrics": "[given]"}
    flags = []
    for key in {*RENAMED_SETTINGS.values()} - {"model.add_input"}:
        name = key.rpartition(".")[2]
        key += ".overlap_size" if name == "evaluation" else ""
        value = values.get(name, "true" if name in ("residual", "image_condition", "latents", "overwrite") else "7")
        flags.append(f"--{key}={'true' if name in ('gradient_checkpointing', 'vae_slicing') else value}")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "pano.yaml", *sorted(flags), "--print_config"])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    model = yaml.safe_load(output.out)["model"]["init_args"]
    assert (model["sampling"]["num_inference_steps"], model["sampling"]["guidance_scale"]) == (7, 2.5)
    assert (model["cache"]["dir"], model["output"]["metrics"], model["prompt_prefix"]) == ("x", ["given"], "p")
    assert model["output"]["evaluation"]["overlap_size"] == 7


def test_a_users_own_classes_call_their_arguments_what_they_like(tmp_path):
    run = {
        "model": {"class_path": "my.module.Model", "init_args": {"kernel_size": 3, "cache_dir": "x"}},
        "data": {"class_path": "my.module.Data", "init_args": {"prompt_prefix": "x"}},
    }
    path = write_config(tmp_path / "run.yaml", run)
    check_names(["fit", "--config", str(path), "--model.guidance_scale=2"])
    with pytest.raises(ValueError, match=r"data\.prompt_prefix is now model\.prompt_prefix"):
        check_names(["fit", "--config", str(path), "--data", "mvdiff.data.datamodule.Matterport3DDataModule"])
