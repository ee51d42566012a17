"""ControlNet and inpainting: what the control does, what is kept, and parts that do not fit."""

import pytest
import torch
from torch.testing import assert_close

from mvdiff.methods.controlnet_inpainting import ControlNetInpainting, FrameInpaintingTask
from mvdiff.methods.parts import MissingPart, Parts
from mvdiff.models.backbone import load_backbone
from mvdiff.models.controlnet import check_controlnet, controlnet_from_unet
from tests.method_parts import tiny_controlnet
from tests.methods.test_repaint import SAMPLING, frames
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.test_outpaint import tiny_inpainting_base
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_inpainting_base(tmp_path_factory.mktemp("inpainting"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    plain = load_backbone(tiny_base(tmp_path_factory.mktemp("plain")))
    return controlnet_from_unet(plain.unet, plain.vae_stride)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ControlNet that does something, in a folder."""
    return tiny_controlnet(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def method(base, trained):
    return quiet(ControlNetInpainting.open(Parts(base=base, controlnet=trained)))


def quiet(method):
    method.pipeline.set_progress_bar_config(disable=True)
    return method


def test_a_fresh_controlnet_changes_nothing_and_a_trained_one_does(base, fresh, method):
    batch = frames(2)
    pipeline = Parts(base=base).open_base("test", FrameInpaintingTask(), "an inpainting base")
    untrained = quiet(ControlNetInpainting(pipeline, fresh))
    off = quiet(ControlNetInpainting(pipeline, fresh, scale=0.0))
    expected = off.generate(batch, SAMPLING, 3)
    assert torch.equal(untrained.generate(batch, SAMPLING, 3), expected)
    assert not torch.allclose(method.generate(batch, SAMPLING, 3), expected, atol=1e-3)


def test_without_depth_it_is_the_inpainting_base_without_control(base, fresh, method):
    batch = frames(2)
    batch.depths = torch.zeros_like(batch.depths)
    pipeline = Parts(base=base).open_base("test", FrameInpaintingTask(), "an inpainting base")
    expected = quiet(ControlNetInpainting(pipeline, fresh)).generate(batch, SAMPLING, 3)
    assert_close(method.generate(batch, SAMPLING, 3), expected, atol=1e-3, rtol=0)


def test_a_batch_does_not_change_its_samples(method):
    both = frames(3, 2)
    images = method.generate(both, SAMPLING, 3)
    for row in (0, 1):
        assert_close(method.generate(both.rows([row]), SAMPLING, 3)[0], images[row], atol=1e-3, rtol=0)
    assert not torch.allclose(method.generate(both, SAMPLING, 4), images, atol=0.05)
    method.pipeline.set_views_per_chunk(1)
    assert_close(method.generate(both, SAMPLING, 3), images, atol=1e-3, rtol=0)
    method.pipeline.set_views_per_chunk(None)


def test_one_frame_works(method):
    images = method.generate(frames(1), SAMPLING, 3)
    assert images.shape == (1, 1, 3, HEIGHT, WIDTH)
    assert torch.isfinite(images).all()


def test_settings_name_the_controlnet(method, trained):
    described = method.describe(SAMPLING)
    assert described["controlnet"] == trained.name
    assert len(described["controlnet_weights_hash"]) == 64
    assert method.generate(frames(1), SAMPLING, 3).shape[1] == 1


def test_missing_and_foreign_parts_are_named(base, trained, fresh):
    with pytest.raises(MissingPart, match=r"--controlnet .*controlnet-inpainting"):
        ControlNetInpainting.open(Parts(base=base))
    with pytest.raises(MissingPart, match=r"--base .*an inpainting base"):
        ControlNetInpainting.open(Parts(controlnet=trained))
    with pytest.raises(FileNotFoundError, match="controlnet must be"):
        ControlNetInpainting.open(Parts(base=base, controlnet="nowhere"))
    unet = load_backbone(base).unet
    with pytest.raises(ValueError, match=r"in_channels of the controlnet must be 9.*got 4"):
        check_controlnet(fresh, unet, 9, 4)
    with pytest.raises(ValueError, match=r"reduce its image by 8.*got a reduction by 4"):
        check_controlnet(fresh, unet, 4, 8)
