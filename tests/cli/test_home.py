"""`~` is the home folder in every option and every setting of a run."""

from pathlib import Path

import pytest

from mvdiff.cli.main import find_command
from mvdiff.cli.options import CommandParser
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import source_from_config
from mvdiff.pipelines.base_reference import location
from mvdiff.pipelines.model_folder import model_location
from mvdiff.run_files import config_path
from mvdiff.settings import CacheSettings
from mvdiff.training.settings import OutputSettings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def settings(*words):
    command = find_command(words)
    groups = CommandParser(command).settings(words[len(command.name.split()) :])
    return {name: value for group in groups for name, value in vars(group).items()}


def test_options_of_every_kind(home):
    values = settings(
        *("generate", "outpaint", "--image", "~/a.png", "--image=~/b.png", "--prompts", "~/p.txt", "--out=~/out"),
        *("--model", "~/model", "--base=~/base", "--vae=~/vae"),
    )
    assert values["image"] == [home / "a.png", home / "b.png"]
    assert (values["prompts"], values["out"]) == (home / "p.txt", home / "out")
    assert [values[name] for name in ("model", "base", "vae")] == [f"{home}/model", f"{home}/base", f"{home}/vae"]
    assert settings("report", "~/one", "~/two", "--mesh", "~/m.glb")["dir"] == (home / "one", home / "two")
    values = settings("evaluate", "--generated=~/gen", "--config=~/run.yaml", "--truth=~/truth.json")
    assert (values["generated"], values["config"]) == (home / "gen", [f"{home}/run.yaml"])
    assert values["truth"] == f"{home}/truth.json"
    assert settings("data", "check", "~", "--data=~/reader.yaml") == {
        "dir": f"{home}", "data": f"{home}/reader.yaml", "num_workers": 8, "max_pixels": None
    }  # fmt: skip
    assert settings("data", "check", "a~b/~")["dir"] == "a~b/~"


def test_settings_of_a_run(home, tmp_path):
    from mvdiff.cli.doctor.run import RunToCheck

    (home / "mine.yaml").write_text("extends: ~/below.yaml\n")
    (home / "below.yaml").write_text("data:\n  class_path: mvdiff.data.datamodule.Matterport3DDataModule\n")
    words = ("--config", "pano.yaml", "--config=~/mine.yaml", "--data.root=~/faces", "--ckpt_path=~/last.ckpt")
    words += ("--model.cache.dir=~/cache", "--trainer.default_root_dir=~/runs")
    run = RunToCheck(words, tmp_path).settings
    assert run.data.init_args.root == f"{home}/faces"
    assert (run.ckpt_path, run.trainer.default_root_dir) == (f"{home}/last.ckpt", f"{home}/runs")
    assert run.model.init_args.cache.dir == f"{home}/cache"
    assert config_path("~/mine.yaml") == home / "mine.yaml"


def test_settings_in_python(home):
    assert CacheSettings(dir="~/cache").dir == f"{home}/cache"
    assert OutputSettings(dir="~/out").dir == f"{home}/out"
    assert EvaluationSettings(truth="~/t.json", clip_weights="openai").truth == f"{home}/t.json"
    (home / "base").mkdir()
    assert (model_location("~/model"), location("model", "~/base")) == (home / "model", "~/base")
    (home / "run.yaml").write_text(
        "data:\n  class_path: mvdiff.data.datamodule.EquirectangularDataModule\n  init_args:\n    root: ~/pano\n"
    )
    assert source_from_config(["~/run.yaml"]).data.root == home / "pano"
