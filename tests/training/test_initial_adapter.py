"""The adapter that training starts from: loaded or fresh, its settings and its neighbours."""

import re

import pytest
import torch
from lightning.pytorch import Trainer

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.diffusion import training_noise
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.model_folder import BaseReference, ModelInfo, write_model_folder
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.tasks.panorama import PanoramaTask
from tests.training.test_multi_view import RIG, awaken, batch_of, geometry_of, make


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2)


@pytest.fixture(scope="module")
def module(tiny_folder):
    return awaken(make(tiny_folder))


def test_start_from_an_adapter(module, data, tmp_path, tiny_folder):
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.trainer.datamodule = data
    module.save_model_folder(tmp_path / "model")
    started = make(tiny_folder, init_adapter=str(tmp_path / "model"))
    assert all(torch.equal(value, started.state_dict()[name]) for name, value in module.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"a model folder with mvdiff\.json; got .*adapter"):
        make(tiny_folder, init_adapter=str(tmp_path / "model" / "adapter"))


def test_the_adapters_settings_can_be_chosen(tiny_folder):
    chosen = {"kernel_size": 1, "mid_place": "after_mid_block", "wavelengths": (1.0, 8.0), "min_overlap": 0.1}
    chosen["neighbours"] = [[1], [2, 0], []]
    config = make(tiny_folder, **chosen).adapter.config
    assert config.mid_place == chosen.pop("mid_place")
    chosen |= {"head_dim": 8, "wavelengths": [1.0, 8.0]}
    assert config.attention["init_args"] == chosen


def test_the_settings_of_a_loaded_adapter_are_not_ignored(module, data, tmp_path, tiny_folder):
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.trainer.datamodule = data
    module.save_model_folder(tmp_path)
    same = {"head_dim": 8, "kernel_size": 3, "wavelengths": (0.5, 16.0)}
    assert make(tiny_folder, init_adapter=str(tmp_path), **same).adapter.mid_block.head_dim == 8
    assert make(tiny_folder, init_adapter=str(tmp_path), head_dim=None).adapter.mid_block.head_dim == 8
    lists = [[1], [2, 0], []]
    others = (("kernel_size", 5, 3), ("head_dim", 16, 8), ("min_overlap", 0.3, 0.01), ("neighbours", lists, None))
    for name, value, there in others:
        text = f"{name} must be left out, or equal that of model.init_adapter, {there}; got {value}"
        with pytest.raises(ValueError, match=re.escape(f"model.adapter.attention.init_args.{text}")):
            make(tiny_folder, init_adapter=str(tmp_path), **{name: value})


def test_min_overlap_chooses_neighbours_in_training_and_generation(tiny_folder, data):
    """Where no overlap is large enough, nobody is attended to: as with attention switched off."""
    lonely, batch = awaken(make(tiny_folder, min_overlap=0.99)), batch_of(data, (0, 0))
    assert not any(level.visible.any() for level in geometry_of(lonely, batch).levels)
    assert all(level.visible.any() for level in geometry_of(awaken(make(tiny_folder)), batch).levels)

    alone = images(lonely)
    assert not torch.allclose(alone, images(awaken(make(tiny_folder))), atol=1e-3)
    lonely.adapter.set_attention_enabled(False)
    torch.testing.assert_close(alone, images(lonely))


def test_neighbour_lists_choose_neighbours_in_training_and_generation(tiny_folder, data, tmp_path):
    """The lists of what overlaps change nothing; a view without neighbours does as with attention switched off."""
    batch, default, off = batch_of(data, (0, 0)), awaken(make(tiny_folder)), awaken(make(tiny_folder))
    off.adapter.set_attention_enabled(False)
    listed = awaken(make(tiny_folder, neighbours=[[2, 1], [0, 2], [1, 0]]))
    loss = listed.noise_loss(batch, batch.prompts)
    torch.testing.assert_close(loss, default.noise_loss(batch, batch.prompts), rtol=0, atol=0)
    torch.testing.assert_close(images(listed), images(default), rtol=0, atol=0)

    chosen = awaken(make(tiny_folder, neighbours=[[1], [2, 0], []]))
    for level in geometry_of(chosen, batch).levels:
        attended = [set(level.views[view][level.visible[view]].tolist()) for view in range(3)]
        assert attended == [{1}, {0, 2}, set()]
    found, full, none = (predicted(module, batch) for module in (chosen, default, off))
    torch.testing.assert_close(found[0, 2], none[0, 2])
    assert not torch.allclose(found[0, 0], full[0, 0], atol=1e-4)
    assert not torch.allclose(found[0, 0], none[0, 0], atol=1e-4)
    with pytest.raises(ValueError, match=r"neighbours must have one list per view \(3\); got 2 lists"):
        geometry_of(make(tiny_folder, neighbours=[[1], [0]]), batch)

    base = BaseReference(str(tiny_folder / "base"), weights_hash=chosen.backbone.weights_hash())
    write_model_folder(
        tmp_path / "m", chosen.adapter, chosen.backbone.scheduler, ModelInfo(PanoramaTask(), {"rig": RIG}, "", base)
    )
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "m")
    assert pipeline.adapter.mid_block.neighbours == [[1], [2, 0], []]
    assert torch.equal(generated(pipeline), images(chosen))
    with pytest.raises(ValueError, match=r"one list per view \(2\); got 3 lists"):
        generated(pipeline, rig=RingRig(num_views=2, fov_deg=150.0, height=16, width=16))


def generated(pipeline, **call):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a red lamp", seed=0, num_inference_steps=2, output_type="pt", **call).images


@torch.no_grad()
def predicted(module, batch):
    """The noise predicted for a batch's views at one timestep."""
    noise = training_noise(0, 0, [0], 3, module.inputs.latents(batch).shape[2:])
    geometry = geometry_of(module, batch)
    return module.unet(noise, torch.tensor([500]), module.inputs.text(batch.prompts), geometry)


def images(module):
    return generated(MVDiffusionPanoramaPipeline.from_backbone(module.backbone, module.adapter, rig=RIG))
