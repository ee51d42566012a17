"""Training of a depth ControlNet on single frames, with a tiny real base."""

import pytest
import torch
from diffusers import ControlNetModel
from lightning.pytorch import Trainer

from mvdiff.batch import MultiViewBatch
from mvdiff.models.backbone import load_backbone
from mvdiff.models.controlnet import check_controlnet, load_controlnet
from mvdiff.training.controlnet import ControlNetModule
from mvdiff.training.single_view import SingleViewModule
from tests.tiny import tiny_base
from tests.training.tiny_depth import WallData, WallFrames


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny_base(tmp_path_factory.mktemp("controlnet")))


def module(base, out, kind=ControlNetModule, **settings):
    return kind(out=str(out), base=base, num_validation_samples=0, prompt_prefix="", **settings)


def test_it_starts_from_the_loss_of_the_base(base, tmp_path):
    batch = MultiViewBatch.collate([WallFrames(2, "keyframes")[(0, index)] for index in (0, 1)])
    modules = [module(base, tmp_path / "out", kind) for kind in (ControlNetModule, SingleViewModule)]
    losses = [one.noise_loss(batch, batch.prompts) for one in modules]
    assert torch.equal(*losses)
    losses[0].backward()
    gradients = [one.grad for one in modules[0].controlnet.parameters() if one.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)
    assert not any(one.requires_grad for one in modules[0].backbone.parameters())
    batch.depths = None
    with pytest.raises(ValueError, match="depths are required"):
        modules[0].noise_loss(batch, batch.prompts)


def test_fit_writes_a_controlnet_that_fits_the_base(base, tmp_path):
    trained = module(base, tmp_path / "out", out_dtype="float16")
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_steps=1, limit_val_batches=0, default_root_dir=tmp_path, **settings).fit(trained, WallData("frames"))
    backbone, written = load_backbone(base), load_controlnet(tmp_path / "out")
    check_controlnet(written, backbone.unet, backbone.latent_channels, backbone.vae_stride)
    for name, value in ControlNetModel.from_pretrained(str(tmp_path / "out")).state_dict().items():
        assert torch.equal(value.float(), trained.controlnet.state_dict()[name].half().float())
    assert {name.split(".")[1] for name in trained.state_dict()} == {"controlnet"}
