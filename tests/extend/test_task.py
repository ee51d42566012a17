"""docs/extend.md, "A task"."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff import class_paths
from mvdiff.batch import MultiViewBatch
from mvdiff.cli.config_files import open_data
from mvdiff.cli.main import main
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.model_folder import ModelInfo
from mvdiff.settings import Sampling
from tests.extend.taking_through import generating, take_through, training
from tests.tiny import tiny_base
from tests.training.tiny_run import tiny_config, write_config

CLASS_PATH = "my_task.SketchTask"


@pytest.fixture(scope="module")
def sketch_base(tmp_path_factory):
    """A base that takes edges: a text-to-image base, trained for two steps on single views with their edges."""
    folder = tmp_path_factory.mktemp("base")
    config = tiny_config(folder)
    settings = {"out": str(folder / "sketch_base"), "task": CLASS_PATH, "add_input": True}
    settings |= {"base": str(folder / "base"), "num_validation_samples": 1, "sampling": {"num_inference_steps": 1}}
    settings["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}}
    model = {"class_path": "mvdiff.training.single_view.SingleViewModule", "init_args": settings}
    config = training(folder, config | {"model": model})
    config["trainer"]["callbacks"] = []
    assert main(["fit", "--config", str(write_config(folder / "base.yaml", config))]) == 0
    return folder / "sketch_base"


@pytest.fixture(scope="module")
def run(sketch_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(sketch_base.parent, task={"class_path": CLASS_PATH}, base=str(sketch_base))
    return take_through(folder / "task", config, metric="overlap_psnr", plugin="my_task")


def opened(run) -> tuple[MultiViewPipeline, MultiViewBatch]:
    """The model, and the first sample of its test split."""
    class_paths.allow_plugins("my_task")
    pipeline = MultiViewPipeline.from_pretrained(run.model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, next(iter(open_data([run.folder / "run.yaml"], "test").data.eval_dataloader("test"))).rows([0])


def test_edges_are_means_of_steps_to_the_right():
    from my_task import SketchTask

    images = torch.zeros(1, 1, 3, 4, 8)
    images[..., 5:] = 0.5  # one step of 0.5, into column 5, the second of the second cell of 4
    batch = MultiViewBatch.from_cameras(torch.eye(3)[None], torch.eye(3)[None], 4, 8)
    encoder = type("Stride", (), {"vae_stride": 4})
    channels = SketchTask().condition(replace(batch, images=images), encoder).channels
    assert channels.shape == (1, 1, 1, 1, 2)
    assert channels.flatten().tolist() == [0, pytest.approx(0.5 / 4)]


def test_the_base_learns_to_use_the_new_channel(sketch_base):
    unet = load_backbone(sketch_base).unet
    assert unet.config.in_channels == 5
    assert unet.conv_in.weight[:, 4].abs().max() > 0  # zero before training


def test_the_model_folder_stores_its_class_path_and_needs_the_users_word(run, capsys, tmp_path):
    assert run.described("mvdiff.json")["task"] == CLASS_PATH
    command = generating(run.folder, out=str(tmp_path / "out"))
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"got {CLASS_PATH}, in {run.model / 'mvdiff.json'}" in error
    assert "--plugin my_task" in error
    with pytest.raises(ValueError, match="--plugin my_task"):
        MultiViewPipeline.from_pretrained(run.model)
    assert main([*command, "--plugin", "my_task"]) == 0
    for sample in ("room8", "room9"):
        assert torch.equal(run.views(str(tmp_path / "out"), sample), run.views("generated", sample))


@pytest.mark.parametrize("name", ["my_task.avg_pool2d", "my_task.Task", "my_attention.MeanOfNeighbours", "os.system"])
def test_what_is_no_task_of_an_allowed_module_is_refused(run, name):
    class_paths.allow_plugins("my_task", "my_attention")
    described = run.described("mvdiff.json") | {"task": name}
    with pytest.raises(ValueError, match=f"class_path must .*; got {name}, in evil.json"):
        ModelInfo.from_dict(described, where="evil.json")


def test_the_card_says_how_to_open_it(run):
    card = (run.model / "README.md").read_text()
    assert "# Multi-view diffusion: sketch" in card
    assert "`mvdiff generate dataset --model FOLDER --plugin my_task`" in card
    names: dict = {}
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER OR HUB ID OF THIS MODEL", str(run.model))
    exec(code, names)
    assert names["pipeline"].task.name == "sketch"
    assert names["pipeline"].model_info.title.startswith("a sketch model of 3 views on the base ")


def test_other_edges_give_other_images(run):
    pipeline, batch = opened(run)
    settings = {"sampling": Sampling(num_inference_steps=2, guidance_scale=1.0), "seed": 0, "decode": False}
    own = pipeline.generate(batch, **settings).latents
    assert torch.equal(own, pipeline.generate(batch, **settings).latents)
    images = batch.images.clone()
    images[:, 0] = 0  # view 0 has no edges
    other = pipeline.generate(replace(batch, images=images), **settings).latents
    assert (own - other).abs().max() > 1e-3
    negative = pipeline.generate(replace(batch, images=-batch.images), **settings).latents
    assert torch.equal(own, negative)  # the same edges: nothing else of the images is seen


def test_what_generate_wrote_is_what_the_pipeline_gives(run):
    pipeline, batch = opened(run)
    views = pipeline.generate(batch, Sampling(num_inference_steps=2, guidance_scale=1.0), seed=0).images[0]
    assert torch.equal(run.views("generated", batch.sample_id[0]), ((views + 1) * 127.5).round().to(torch.uint8))


def test_scores_and_page(run):
    entry = run.results["metrics"]["overlap_psnr_mean_of_pairs"]
    assert 0 < entry["value"] < 60
    assert run.results["generated"]["num_samples"] == 2
    assert "a red lamp 8" in run.page
    with Image.open(run.folder / "generated" / "room8" / "panorama.png") as panorama:  # its views are a rig
        assert np.asarray(panorama).std() > 0


def test_another_tasks_base_is_refused(sketch_base, tmp_path, capsys):
    config = tiny_config(sketch_base.parent, task={"class_path": CLASS_PATH}, base=str(tiny_base(tmp_path / "base")))
    run = str(write_config(tmp_path / "run.yaml", training(tmp_path, config)))
    assert main(["fit", "--config", run]) == 1
    assert "base must take 4 + 1 channels, latents and edges; got 4" in capsys.readouterr().err
    config["model"]["init_args"]["base"] = None
    assert main(["fit", "--config", str(write_config(tmp_path / "run.yaml", training(tmp_path, config)))]) == 1
    assert "base is required for the task sketch" in capsys.readouterr().err


def test_a_face_of_another_task_says_what_to_run(run, capsys, tmp_path):
    command = ["generate", "panorama", "--model", str(run.model), "--prompt", "a lamp", "--out", str(tmp_path)]
    assert main([*command, "--device", "cpu", "--plugin", "my_task"]) == 1
    error = capsys.readouterr().err
    assert "model must be a panorama model; got a sketch model" in error
    assert "`mvdiff generate dataset`" in error


def test_checkpoints_store_plain_values(run, sketch_base, tmp_path, capsys):
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    config = training(tmp_path, tiny_config(sketch_base.parent, task={"class_path": CLASS_PATH}, base=str(sketch_base)))
    config["trainer"] |= {"callbacks": [keep], "max_steps": 1, "limit_val_batches": 0}
    assert main(["fit", "--config", str(write_config(tmp_path / "run.yaml", config))]) == 0
    class_paths._plugins.clear()
    (checkpoint,) = tmp_path.glob("*.ckpt")
    export = ["export", str(checkpoint), "--out", str(tmp_path / "model")]
    assert main(export) == 1
    assert "--plugin my_task" in capsys.readouterr().err
    assert main([*export, "--plugin", "my_task"]) == 0
    assert json.loads((tmp_path / "model" / "mvdiff.json").read_text())["task"] == CLASS_PATH
