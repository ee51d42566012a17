"""The input of inpainting UNets: mask, masked image, and a base made wider."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.geometry.cameras import Rig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.given import views_of_given
from mvdiff.models.backbone import load_backbone
from mvdiff.models.conditioning import given_frames, image_condition
from mvdiff.models.inpainting import (
    add_inpainting_input,
    check_inpainting_input,
    generation_mask,
    inpainting_condition,
    masked_images,
)
from tests.tiny import tiny_base


@settings(derandomize=True, max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), stride=st.integers(1, 4), seed=st.integers(0, 99))
def test_mask_matches_a_loop_over_cells(height, width, stride, seed):
    known = (torch.rand(2, 1, 1, height, width, generator=torch.Generator().manual_seed(seed)) < 0.7).float()
    mask = generation_mask(known, stride)
    assert mask.shape == (2, 1, 1, math.ceil(height / stride), math.ceil(width / stride))
    for sample in range(2):
        for row in range(mask.shape[-2]):
            for column in range(mask.shape[-1]):
                cell = known[sample, 0, 0, stride * row : stride * (row + 1), stride * column : stride * (column + 1)]
                assert mask[sample, 0, 0, row, column] == float(bool((cell == 0).any()))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_whole_views_match_diffusers_rule(value):
    """Every stride-th pixel, as diffusers resizes masks: the same for views given whole or not at all."""
    known = torch.full((3, 1, 16, 24), value)
    theirs = torch.nn.functional.interpolate(1 - known, size=(2, 3))
    assert torch.equal(generation_mask(known, 8), theirs)


def test_known_is_1_where_given_and_only_the_mask_of_inpainting_is_inverted():
    """Signed and asymmetric: a picture of what is to the left is known in the left of a wide view."""
    rig = Rig([(0, 0, 120)], height=2, width=12)
    K, R = intrinsics_from_fov(60.0, 4, 8), rotation_from_yaw_pitch(-45.0, 0.0)
    known = views_of_given(K, R, 4, 8, *rig.cameras(), rig.height, rig.width)
    # The picture spans yaw -75 to -15. f = 6 / tan(60) = 3.46, so it ends at column 5.5 - 3.46 tan(15) = 4.57.
    assert known[0, 0, 0].tolist() == [1.0] * 5 + [0.0] * 7
    assert generation_mask(known, 1)[0, 0, 0].tolist() == [0.0] * 5 + [1.0] * 7
    frames = torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)])[None]
    given = given_frames(frames, torch.ones(1, 2, dtype=torch.bool))
    condition, _ = image_condition(torch.zeros(1, 2, 4, 1, 1), given)
    assert condition[0, :, -1].flatten().tolist() == [1.0, 0.0]  # the depth model's mask is known itself


def test_what_is_to_be_generated_is_not_read():
    known = torch.zeros(1, 2, 1, 4, 4)
    known[:, :, :, :, :2] = 1
    images = torch.full((1, 2, 3, 4, 4), 0.25)
    images[..., 2:] = float("nan")
    masked = masked_images(images, known)
    assert masked[..., :2].unique().tolist() == [0.25]
    assert masked[..., 2:].unique().tolist() == [0.0]


def test_golden_order_of_the_input():
    """Mask, then the masked image's latent; 1 = generate (signed: known is its complement)."""
    known = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2)[None]
    latents = torch.arange(4.0).view(4, 1, 1).expand(4, 1, 2)
    condition = inpainting_condition(known, latents, 2)
    assert condition[:, 0].tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    with pytest.raises(ValueError, match=r"multiples of 4, the autoencoder's stride; got \[2, 4\]"):
        inpainting_condition(known, latents, 4)


def test_a_widened_base_computes_what_it_did(tmp_path):
    unet = load_backbone(tiny_base(tmp_path / "base")).unet
    x, extra, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8, 8), torch.randn(2, 7, 32)
    before = unet(x, 3, encoder_hidden_states=text).sample
    with pytest.raises(ValueError, match=r"UNet with 9 input channels.*; got 4"):
        check_inpainting_input(unet, 4)
    assert add_inpainting_input(unet) is unet
    check_inpainting_input(unet, 4)
    torch.testing.assert_close(unet(torch.cat([x, extra], dim=1), 3, encoder_hidden_states=text).sample, before)
    with pytest.raises(ValueError, match=r"add_input must be false .* got true, with a UNet of 9 input"):
        add_inpainting_input(unet)
