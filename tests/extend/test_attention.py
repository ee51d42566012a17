"""docs/extend.md, "An attention block": a class outside the package, named by class_path."""

import json

import pytest
import torch

from mvdiff import class_paths
from mvdiff.cli.main import main
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.model_folder import load_adapter
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.samples.pixels import read_png
from tests.pipelines.conftest import make_pipeline
from tests.tiny import tiny_base

CLASS_PATH = "tests.extend.attention.MeanOfNeighbours"


@pytest.fixture
def nothing_named(monkeypatch):
    monkeypatch.setattr(class_paths, "_plugins", set())


@pytest.fixture
def model(nothing_named, tmp_path):
    """A model folder whose adapter names the class."""
    class_paths.allow_plugins("tests.extend")
    pipeline = make_pipeline(tiny_base(tmp_path / "base"))
    settings = {"class_path": CLASS_PATH, "init_args": {"start": 0.5}}
    pipeline.register_modules(adapter=MultiViewAdapter.from_unet(pipeline.unet, settings))
    pipeline.save_pretrained(tmp_path / "model")
    class_paths._plugins.clear()
    return tmp_path / "model"


def test_a_model_folder_keeps_its_settings_and_needs_the_users_word(model):
    config = json.loads((model / "adapter" / "config.json").read_text())
    assert config["attention"] == {"class_path": CLASS_PATH, "init_args": {"start": 0.5}}
    with pytest.raises(ValueError, match=r"class_path must lie in mvdiff or .*--plugin tests"):
        load_adapter(model)
    class_paths.allow_plugins("tests.extend")
    adapter = load_adapter(model)
    assert type(adapter.mid_block).__name__ == "MeanOfNeighbours"
    assert (adapter.mid_block.weight == 0.5).all()


def test_views_hear_of_each_other_through_it(model):
    class_paths.allow_plugins("tests")
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    own = pipeline("a room", **settings).images
    assert torch.isfinite(own).all()
    assert (own - pipeline("a room", caa=False, **settings).images).abs().max() > 0.01
    assert torch.equal(own, pipeline("a room", **settings).images)


def test_generate_takes_it_with_a_plugin_option(model, tmp_path, capsys):
    command = ["generate", "panorama", "--model", str(model), "--prompt", "a room", "--out", str(tmp_path / "out")]
    command += ["--num_inference_steps", "1", "--device", "cpu"]
    assert main(command) == 1
    assert "--plugin tests" in capsys.readouterr().err
    assert main([*command, "--plugin", "tests.extend"]) == 0
    assert read_png(tmp_path / "out" / "0000" / "0.png").shape == (3, 32, 32)
