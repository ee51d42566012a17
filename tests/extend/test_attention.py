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
from tests.training.tiny_run import tiny_panoramas

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


def test_fit_starts_from_it_with_a_plugin_option(model, tmp_path, capsys, nothing_named):
    tiny_panoramas(tmp_path / "data")
    small = {"num_views": 4, "fov_deg": 120.0, "height": 16, "width": 16}
    settings = {
        "trainer": {"max_steps": 2, "limit_val_batches": 0, "logger": False, "accelerator": "cpu"}
        | {"enable_progress_bar": False, "default_root_dir": str(tmp_path)}
        | {
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
            ]
        },
        "model": {
            "class_path": "mvdiff.training.multi_view.MultiViewModule",
            "init_args": {"base": str(tmp_path / "base"), "init_adapter": str(model)},
        },
        "data": {
            "class_path": "mvdiff.data.datamodule.EquirectangularDataModule",
            "init_args": {"root": str(tmp_path / "data"), "num_val": 2, "num_workers": 0}
            | {"rig": {"class_path": "mvdiff.geometry.cameras.RingRig", "init_args": small}},
        },
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    command = ["fit", "--config", str(tmp_path / "run.yaml")]
    assert main(command) == 1
    assert "--plugin tests" in capsys.readouterr().err
    assert main([*command, "--plugin", "tests.extend"]) == 0
    (checkpoint,) = tmp_path.glob("*.ckpt")
    weight = torch.load(checkpoint, weights_only=True)["state_dict"]["adapter.mid_block.weight"]
    assert (weight != 0.5).any()
    class_paths._plugins.clear()
    export = ["export", str(checkpoint), "--out", str(tmp_path / "exported")]
    assert main(export) == 1
    assert "--plugin tests" in capsys.readouterr().err
    assert main([*export, "--plugin", "tests.extend"]) == 0
    assert torch.equal(load_adapter(tmp_path / "exported").mid_block.weight, weight)
