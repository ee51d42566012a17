"""MVDiffusionOutpaintPipeline on tiny real components: against a loop written out, and what a caller may rely on."""

import pytest
import torch
from PIL import Image

from mvdiff.diffusion import view_noise
from mvdiff.eval.metrics.given import known_psnr
from mvdiff.keyed import keyed_generator
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.inpainting import add_inpainting_input
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.calls import OUTPUT_TYPES
from mvdiff.pipelines.given import given_images, given_views
from mvdiff.pipelines.model_folder import BaseReference, read_model_info
from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.prompt_files import PromptEntry
from mvdiff.samples import read_sample, to_uint8
from tests.geometries import camera_geometry
from tests.pipelines.conftest import RING, UNEVEN, make_pipeline, trained_like, write_entries
from tests.tiny import tiny_base

STEPS = {"num_inference_steps": 2, "output_type": "pt", "seed": 3}


def tiny_inpainting_base(folder):
    """Write a tiny base whose UNet takes mask and masked image, with weights that use them."""
    backbone = load_backbone(tiny_base(folder / "plain"))
    add_inpainting_input(backbone.unet)
    with torch.no_grad():
        backbone.unet.conv_in.weight[:, 4:].normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    backbone.save_pretrained(folder / "base")
    return folder / "base"


def make_outpaint(folder, rig=RING) -> MVDiffusionOutpaintPipeline:
    base = tiny_inpainting_base(folder)
    backbone = load_backbone(base)
    pipeline = MVDiffusionOutpaintPipeline.from_backbone(
        backbone,
        trained_like(MultiViewAdapter.from_unet(backbone.unet)),
        rig=rig,
        base=BaseReference(str(base), weights_hash=backbone.weights_hash()),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def outpaint(tmp_path_factory):
    return make_outpaint(tmp_path_factory.mktemp("outpaint"))


def some_views(batch=1, rig=RING, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, rig.num_views, 3, rig.height, rig.width, generator=generator) * 2 - 1
    known = torch.zeros(batch, rig.num_views, 1, rig.height, rig.width)
    known[:, 0] = 1
    known[:, 1, :, :, : rig.width // 2 + 1] = 1
    return images, known


@torch.no_grad()
def test_matches_a_loop_written_out(outpaint):
    """DDIM by hand; the input is [latent | 1 - known in cells, any pixel | latent of the image, 0 where unknown]."""
    images, known = some_views()
    result = outpaint(
        [["red wall", "blue wall", "a table", "a lamp"]],
        images=images,
        known=known,
        sample_ids=["x"],
        guidance_scale=3.0,
        **(STEPS | {"num_inference_steps": 4, "output_type": "latent"}),
    )
    backbone = Backbone(outpaint.vae, outpaint.text_encoder, outpaint.tokenizer, outpaint.unet, outpaint.scheduler)
    text = backbone.encode_prompts(["red wall", "blue wall", "a table", "a lamp"])[None]
    empty = backbone.encode_prompts([""] * 4)[None]
    masked = backbone.encode_images(images[0] * known[0], keyed_generator("masked-latents", 3, "x"))
    mask = torch.ones(4, 1, 8, 8)
    mask[0], mask[1, :, :, :4] = 0, 0  # of the fifth column of cells one pixel in four is known
    extra = torch.cat([mask, masked], dim=1)[None]
    geometry = camera_geometry(*RING.cameras(), 8, 8, stride=4, num_levels=2)
    unet = MultiViewUNet(outpaint.unet, outpaint.adapter)
    abar = outpaint.scheduler.alphas_cumprod
    x = view_noise(3, "x", num_views=4, shape=(4, 8, 8))[None]
    for t, s in ((751, 501), (501, 251), (251, 1), (1, 0)):
        both = (unet(torch.cat([x, extra], dim=2), torch.tensor([t]), hidden, geometry) for hidden in (empty, text))
        negative, positive = both
        e = negative + 3.0 * (positive - negative)
        x0 = (x - (1 - abar[t]).sqrt() * e) / abar[t].sqrt()
        x = abar[s].sqrt() * x0 + (1 - abar[s]).sqrt() * e
    torch.testing.assert_close(result.images, x, rtol=1e-3, atol=1e-3)
    assert result.panoramas is None


def test_a_picture_is_its_warped_views(outpaint):
    picture = Image.effect_noise((40, 20), 80).convert("RGB")
    views = given_views(given_images(picture, 70.0, 20.0, -5.0), RING)
    by_picture = outpaint("a ball", image=picture, fov_deg=70.0, yaw_deg=20.0, pitch_deg=-5.0, **STEPS)
    by_views = outpaint("a ball", images=views.images[None], known=views.known[None], **STEPS)
    assert torch.equal(by_picture.images, by_views.images)
    assert torch.equal(by_picture.known[0], views.known)
    assert 0 < views.known.mean() < 0.5


def test_paste_back_puts_the_given_pixels_back_and_nothing_else(outpaint):
    images, known = some_views()
    plain = outpaint("a ball", images=images, known=known, paste_back=False, **STEPS)
    pasted = outpaint("a ball", images=images, known=known, **STEPS)
    where = (known > 0).expand_as(images)
    torch.testing.assert_close(pasted.images[where], (images[where] + 1) / 2)
    assert torch.equal(pasted.images[~where], plain.images[~where])
    assert (
        plain.known_psnr
        == pasted.known_psnr
        == [pytest.approx(known_psnr(2 * plain.images[0] - 1, images[0], known[0]), abs=1e-3)]
    )
    assert pasted.panoramas.shape == plain.panoramas.shape
    assert not torch.equal(pasted.panoramas, plain.panoramas)


def test_what_is_unknown_is_not_read(outpaint):
    images, known = some_views()
    spoiled = torch.where(known > 0, images, float("nan"))
    same = [outpaint("a ball", images=given, known=known, **STEPS).images for given in (images, spoiled)]
    assert torch.equal(*same)
    other = torch.where(known > 0, -images, images)
    assert not torch.equal(outpaint("a ball", images=other, known=known, paste_back=False, **STEPS).images, same[0])


def test_samples_do_not_depend_on_their_batch(outpaint):
    images, known = some_views(batch=2)
    known[1, 0] = 0
    together = outpaint(["a ball", "a lamp"], images=images, known=known, sample_ids=["a", "b"], **STEPS)
    alone = outpaint("a lamp", images=images[1:], known=known[1:], sample_ids=["b"], **STEPS)
    assert (alone.images[0] - together.images[1]).abs().max() < 1e-4
    assert alone.known_psnr[0] == pytest.approx(together.known_psnr[1], abs=1e-2)


def test_controls_and_any_rig(outpaint):
    images, known = some_views(batch=2)
    settings = STEPS | {"sample_ids": ["a", "a"], "paste_back": False}
    own = outpaint(["a ball"] * 2, images=images, known=known, **settings).images
    for control in ({"caa": False}, {"attention_enabled": False}, {"neighbour_batch": [1, 0]}):
        assert (
            outpaint(["a ball"] * 2, images=images, known=known, **control, **settings).images - own
        ).abs().max() > 0
    images, known = some_views(rig=UNEVEN)
    assert outpaint("a ball", images=images, known=known, rig=UNEVEN, **STEPS).images.shape == (1, 3, 3, 32, 48)


@pytest.mark.parametrize("output_type", OUTPUT_TYPES)
def test_output_types(outpaint, output_type):
    images, known = some_views()
    result = outpaint("a ball", images=images, known=known, **(STEPS | {"output_type": output_type}))
    if output_type == "pil":
        assert result.images[0][0].size == (32, 32)
        assert result.panoramas[0].width == 2 * result.panoramas[0].height
    elif output_type == "uint8":
        assert torch.equal(result.images[0, 0], to_uint8(images[0, 0]).movedim(0, -1))
    assert (result.known_psnr is None) == (output_type == "latent")


def test_bad_input_is_named(outpaint, tmp_path):
    images, known = some_views()
    picture = Image.new("RGB", (8, 8))
    for call, text in (
        ({}, "`image`, or both `images` and `known`; got none"),
        ({"images": images}, "both `images` and `known`; got images"),
        ({"image": picture, "images": images, "known": known}, "got image and images and known"),
        ({"images": images[:, :3], "known": known[:, :3]}, r"images .* of the prompts and the rig, .*'V': 4.*'V': 3"),
        ({"images": 255 * images, "known": known}, r"images must lie in \[-1, 1\]"),
        ({"images": images.numpy(), "known": known.numpy()}, "images and known must be tensors; got ndarray, ndarray"),
        ({"images": images, "known": 255 * known}, "known must be 0 or 1; got values from 0 to 255"),
        (
            {"images": images, "known": 0 * known},
            "known must be 1 somewhere in each sample; got 0 everywhere, in sample 0",
        ),
        ({"image": picture, "negative_prompt": ["red"] * 8}, r"or one per view \(4\); got 8"),
        ({"image": picture, "panorama_height": -3}, "panorama_height must be .* at least 1; got -3"),
        ({"image": picture, "num_inference_steps": 2.5}, "num_inference_steps must be an integer.*got 2.5"),
        ({"image": picture, "guidance_scale": float("nan")}, "guidance_scale must be finite; got nan"),
        ({"image": picture, "fov_deg": 200}, "fov_deg must lie between 0 and 180"),
        ({"image": picture, "fov_deg": 20, "pitch_deg": 90}, "image must be visible in a view of the rig"),
    ):
        with pytest.raises(ValueError, match=text):
            outpaint("a ball", **STEPS | call)
    two = {"images": images.repeat(2, 1, 1, 1, 1), "known": torch.cat([known, 0 * known])}
    with pytest.raises(
        ValueError, match=r"known must be 1 somewhere .* in sample 1\. Provide a part of a view, or generate"
    ):
        outpaint(["a ball", "a lamp"], **two, **STEPS)
    with pytest.raises(ValueError, match="prompt must be a text, a list of texts, or a list of lists; got NoneType"):
        outpaint(None, image=picture, **STEPS)
    with pytest.raises(ValueError, match=r"one text per view \(4\); got .* \(3\)"):
        outpaint([["a"] * 3], images=images, known=known, **STEPS)
    plain = make_pipeline(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"UNet with 9 input channels.*; got 4"):
        MVDiffusionOutpaintPipeline(plain.vae, plain.text_encoder, plain.tokenizer, plain.unet, plain.adapter, None)


def test_model_folder_goes_round(outpaint, tmp_path):
    outpaint.save_pretrained(tmp_path / "model")
    info = read_model_info(tmp_path / "model")
    assert (info.task.name, info.views) == ("outpaint", {"rig": RING})
    again = MVDiffusionOutpaintPipeline.from_pretrained(tmp_path / "model")
    again.set_progress_bar_config(disable=True)
    images, known = some_views()
    settings = {"images": images, "known": known} | STEPS
    assert torch.equal(again("a ball", **settings).images, outpaint("a ball", **settings).images)
    with pytest.raises(ValueError, match=r"a panorama model; got an outpaint model.*mvdiff generate outpaint"):
        MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")


def test_sample_folders_hold_what_was_given(outpaint, tmp_path):
    images, known = some_views(batch=2)
    entries = [PromptEntry("a", "a ball"), PromptEntry("b", "a lamp")]
    run = {"num_inference_steps": 1, "paste_back": False, "notes": [{"pictures": []}] * 2}
    counts = write_entries(outpaint, entries, tmp_path, images=images, known=known, batch_size=2, **run)
    assert (counts.written, counts.skipped) == (2, 0)
    sample = read_sample(tmp_path / "b")
    pixels, mask = sample.given()
    assert torch.equal(mask, known[1])
    assert torch.equal(pixels * (mask > 0), to_uint8(images[1]) * (mask > 0))
    assert sample.record.settings["given"]["known_share"] == pytest.approx(
        known[1].mean(dim=(1, 2, 3)).tolist(), abs=1e-4
    )
    assert sample.record.settings["paste_back"] is False
    again = write_entries(outpaint, entries, tmp_path, images=images, known=known, **run)
    assert (again.written, again.skipped) == (0, 2)
    with pytest.raises(ValueError, match=r"settings.given.\w+ of a complete sample must equal that of this run"):
        write_entries(outpaint, entries, tmp_path, images=images.flip(0), known=known.flip(0), **run)
