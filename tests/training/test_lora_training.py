"""A LoRA of the base that is trained beside the adapter: no change when fresh, the same images after every save."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mvdiff.cli.train import run_trainer
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.checkpoint import export_checkpoint
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.settings import AdapterSettings, LoraSettings, Sampling
from mvdiff.training.initial_adapter import initial_adapter
from tests.training.test_multi_view import batch_of, make
from tests.training.tiny_run import tiny_config, write_config

RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
QUICK = Sampling(num_inference_steps=2)
CALL = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module")
def batch(tiny_folder):
    return batch_of(EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2), (0, 0))


def pipeline_of(module):
    views = {"rig": RIG, "prompt_prefix": module.prompt_prefix}
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(module.backbone, module.adapter, **views)
    pipeline.wrapped = module.unet
    return pipeline


def test_a_fresh_lora_changes_no_bit(tiny_folder, batch):
    plain, with_lora = make(tiny_folder), make(tiny_folder, rank=2)
    losses = [module.noise_loss(batch, batch.prompts) for module in (plain, with_lora)]
    assert torch.equal(*losses)
    assert torch.equal(*(pipeline_of(module).generate(batch, QUICK).images for module in (plain, with_lora)))
    assert plain.backbone.weights_hash() == with_lora.backbone.weights_hash()


def test_gradients_reach_adapter_and_lora_alone(tiny_folder, batch):
    module = make(tiny_folder, rank=2, target_modules=("to_q", "ff.net.2"))
    module.lr_scheduler = None
    module.noise_loss(batch, batch.prompts).backward()
    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    of_lora = {name for name in trained if ".lora_" in name}
    assert of_lora
    assert all(name.startswith("unet.adapter.") for name in trained - of_lora)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in of_lora} == {"to_q", "2"}
    optimized = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    shapes = [tuple(p.shape) for p in optimized if 2 in p.shape]
    assert len(shapes) == sum(".lora_" in name for name, _ in module.named_parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run with a LoRA and the average of the weights."""
    folder = tmp_path_factory.mktemp("lora")
    config = tiny_config(folder, lora={"rank": 2, "alpha": 4.0})
    config["trainer"]["callbacks"] += [
        {"class_path": "mvdiff.training.ema.TrainedWeightsEMA", "init_args": {"decay": 0.5}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "end"}},
    ]
    config["trainer"] |= {"logger": False, "enable_progress_bar": False, "default_root_dir": str(folder / "runs")}
    run_trainer(["fit", "--config", str(write_config(folder / "run.yaml", config))])
    return folder


def the(folder, name):
    (path,) = folder.rglob(name)
    return path


def images(model, **settings):
    return MVDiffusionPanoramaPipeline.from_pretrained(model, **settings)("a red lamp", **CALL).images


def test_the_checkpoint_has_adapter_and_lora_and_their_averages(run):
    checkpoint = torch.load(the(run, "end.ckpt"), weights_only=True)
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert average.keys() == current.keys()
    assert {name.split(".")[0] for name in average} == {"adapter", "lora"}
    for name in [name for name in average if ".lora_B." in name]:
        assert average[name].abs().max() > 0
        assert not torch.equal(average[name], current[name])
    assert checkpoint["mvdiff"]["lora"] == {
        "r": 2,
        "lora_alpha": 4.0,
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    }


def test_checkpoint_model_folder_and_pipeline_give_equal_images(run, tmp_path):
    export_checkpoint(the(run, "end.ckpt"), tmp_path / "exported")
    written = images(run / "runs" / "version_0" / "model")
    assert torch.equal(written, images(tmp_path / "exported"))
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "exported")
    pipeline.save_pretrained(tmp_path / "again")
    assert torch.equal(written, images(tmp_path / "again"))
    pipeline.unload_lora_weights()
    assert not torch.equal(written, pipeline("a red lamp", **CALL).images)


def test_the_file_is_the_update_that_was_trained(run):
    """W + (alpha / r) B A, multiplied out by hand into the base, gives the same images."""
    model = run / "runs" / "version_0" / "model"
    weights = load_file(model / "lora" / "pytorch_lora_weights.safetensors")
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(model)
    expected = pipeline("a red lamp", **CALL).images
    pipeline.unload_lora_weights()
    with torch.no_grad():
        for name in [name for name in weights if name.endswith("lora_A.weight")]:
            layer = pipeline.unet.get_submodule(name.removeprefix("unet.").removesuffix(".lora_A.weight"))
            assert isinstance(layer, nn.Linear)
            layer.weight += 4.0 / 2 * weights[name.replace("lora_A", "lora_B")] @ weights[name]
    torch.testing.assert_close(pipeline("a red lamp", **CALL).images, expected, rtol=0, atol=1e-4)


def test_the_module_makes_the_images_of_its_model_folder(run):
    module = make(run, rank=2, alpha=4.0)
    checkpoint = torch.load(the(run, "end.ckpt"), weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    batch = batch_of(EquirectangularDataModule(run / "data", rig=RIG, num_val=2), (0, 0))
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(run / "runs" / "version_0" / "model")
    trained = pipeline_of(module)
    assert torch.equal(trained.generate(batch, QUICK).images, pipeline.generate(batch, QUICK).images)
    assert trained.lora_settings() == pipeline.lora_settings()


def test_a_damaged_lora_is_refused(run, tmp_path):
    export_checkpoint(the(run, "end.ckpt"), tmp_path / "model")
    info = json.loads((tmp_path / "model" / "mvdiff.json").read_text())
    info["lora_weights_hash"] = "0" * 64
    (tmp_path / "model" / "mvdiff.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="LoRA must be the one that"):
        images(tmp_path / "model")
    (tmp_path / "model" / "lora" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="LoRA must be a folder with"):
        images(tmp_path / "model")


def test_a_checkpoint_of_another_lora_is_refused(run):
    flags = ["--ckpt_path", str(the(run, "end.ckpt")), "--model.lora.alpha", "2"]
    with pytest.raises(ValueError, match=r"model.lora must be that of the checkpoint, .*4\.0.*; got .*2\.0"):
        run_trainer(["validate", "--config", str(run / "run.yaml"), *flags])


def test_settings_out_of_range_are_refused(tiny_folder, run):
    with pytest.raises(ValueError, match="rank must be a whole number of at least 0; got -1"):
        LoraSettings(rank=-1)
    with pytest.raises(ValueError, match=r"lora.alpha must be left out where lora.rank is 0; got 2"):
        LoraSettings(alpha=2)
    with pytest.raises(ValueError, match=r"target_modules must name layers .* got 'to_z'"):
        make(tiny_folder, rank=2, target_modules=["to_q", "to_z"])
    unet = load_backbone(tiny_folder / "base").unet
    with pytest.raises(ValueError, match="init_adapter must be a model without a LoRA"):
        initial_adapter(unet, str(run / "runs/version_0/model"), AdapterSettings(), AdapterSettings(), seed=0)
