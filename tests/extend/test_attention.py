"""docs/extend.md, "An attention block"."""

import pytest
import torch

from mvdiff import class_paths
from mvdiff.cli.main import main
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.model_folder import load_adapter
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from tests.extend.taking_through import generating, take_through
from tests.training.tiny_run import tiny_config, write_config

CLASS_PATH = "my_attention.MeanOfNeighbours"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    attention = {"class_path": CLASS_PATH, "init_args": {"start": 0.5}}
    return tiny_config(tmp_path_factory.mktemp("tiny"), adapter={"attention": attention})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return take_through(tmp_path_factory.mktemp("run") / "attention", config, plugin="my_attention")


def test_a_fresh_block_returns_its_input_and_a_token_takes_the_mean_beside_it():
    from my_attention import MeanOfNeighbours, WholeViews

    taps, valid = WholeViews(3, 2, 2), torch.tensor([[True, True, False]])
    maps = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 4, 2, 2) + 1  # views hold 1, 2, 3
    assert torch.equal(MeanOfNeighbours(4)(maps, taps), maps)
    block = MeanOfNeighbours(4, start=1.0)
    assert block(maps, taps)[0, :, 0, 0, 0].tolist() == [1 + 2.5, 2 + 2, 3 + 1.5]
    assert block(maps, taps, valid)[0, :2, 0, 0, 0].tolist() == [1 + 1, 2 + 0.5]  # of padding nothing is taken


def test_fit_trains_it_and_the_model_folder_keeps_its_settings(run):
    assert run.described("adapter/config.json")["attention"] == {"class_path": CLASS_PATH, "init_args": {"start": 0.5}}
    class_paths.allow_plugins("my_attention")
    weight = load_adapter(run.model).mid_block.weight
    assert (weight != 0.5).any()
    card = (run.model / "README.md").read_text()
    assert 'allow_plugins("my_attention")' in card
    assert "`mvdiff generate panorama --model FOLDER --plugin my_attention`" in card


def test_no_command_opens_the_model_without_the_users_word(run, config, tmp_path, capsys):
    start = config["model"]["init_args"] | {"init_adapter": str(run.model), "adapter": {}}
    again = {"model": config["model"] | {"init_args": start}, "data": config["data"]}
    again = str(write_config(tmp_path / "again.yaml", again))
    trainer = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu"]
    prompted = ["generate", "panorama", "--model", str(run.model), "--prompt", "a lamp", "--out", str(tmp_path / "out")]
    for command in (
        [*prompted, "--num_inference_steps", "1", "--device", "cpu"],
        generating(run.folder, out=str(tmp_path / "dataset")),
        ["fit", "--config", again, *trainer],
    ):
        assert main(command) == 1
        assert f"got {CLASS_PATH}" in (error := capsys.readouterr().err)
        assert "--plugin my_attention" in error
        assert main([*command, "--plugin", "my_attention"]) == 0
        class_paths._plugins.clear()
    assert (tmp_path / "out" / "0000" / "2.png").is_file()


def test_views_hear_of_each_other_through_it(run, tmp_path):
    own = run.views("generated", "room8")
    control = generating(run.folder, out=str(tmp_path / "alone"))
    assert main([*control, "--no_caa", "--plugin", "my_attention"]) == 0
    alone = run.views(str(tmp_path / "alone"), "room8")
    assert not torch.equal(own, alone)


def test_python_takes_it_by_class_path_too(config):
    class_paths.allow_plugins("my_attention")
    backbone = load_backbone(config["model"]["init_args"]["base"])
    adapter = MultiViewAdapter.from_unet(backbone.unet, {"class_path": CLASS_PATH})  # fresh: changes nothing
    rig = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(backbone, adapter, rig=rig)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    same = pipeline("a lamp", **settings).images, pipeline("a lamp", caa=False, **settings).images
    assert torch.equal(*same)


def test_export_needs_the_users_word_too(config, tmp_path, capsys):
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    trainer = config["trainer"] | {"max_steps": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0, "logger": False}
    trainer |= {"callbacks": [keep], "default_root_dir": str(tmp_path), "enable_progress_bar": False}
    assert main(["fit", "--config", str(write_config(tmp_path / "run.yaml", config | {"trainer": trainer}))]) == 0
    class_paths._plugins.clear()
    (checkpoint,) = tmp_path.glob("*.ckpt")
    export = ["export", str(checkpoint), "--out", str(tmp_path / "exported")]
    assert main(export) == 1
    assert "--plugin my_attention" in capsys.readouterr().err
    assert main([*export, "--plugin", "my_attention"]) == 0
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(load_adapter(tmp_path / "exported").mid_block.weight, state["adapter.mid_block.weight"])
