"""MVDiffusionDepthPipeline on tiny real components: against a loop written out, and what a caller may rely on."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from mvdiff.keyed import keyed_generator
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.conditioning import depth_condition
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.schedulers import scheduler_from
from mvdiff.samples import to_uint8
from tests.geometries import depth_geometry
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.depth_pipelines import given, make_depth_pipeline, walls
from tests.tiny import tiny_base

STEPS = {"num_inference_steps": 2, "output_type": "pt"}
TOLERANCE = 1e-4  # in [0, 1], far below one 8-bit level (4e-3); docs/generate.md states it


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_depth_pipeline(tmp_path_factory.mktemp("depth"))


def backbone_of(pipeline):
    return Backbone(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet, pipeline.scheduler)


@pytest.mark.parametrize("interpolate", [False, True])
@torch.no_grad()
def test_matches_a_loop_written_out(pipeline, interpolate):
    # An independent sampler: DDIM with eta 0 by hand, one sample of 3 frames, with and without two of them given.
    frames, prompts, ids = walls(3), ["red wall", "blue wall", "a lamp"], [40, 60, 80]
    del frames["view_valid"]
    pictures = given(1, 3) if interpolate else {}
    result = pipeline(
        [prompts],
        **frames,
        **pictures,
        seed=5,
        sample_ids=["x"],
        frame_ids=[ids],
        guidance_scale=3.0,
        num_inference_steps=4,
        output_type="latent",
    )

    backbone = backbone_of(pipeline)
    text = backbone.encode_prompts(["this is one view of a scene " + prompt for prompt in prompts])[None]
    empty = backbone.encode_prompts([""] * 3)[None]
    geometry = depth_geometry(**frames, stride=4, num_levels=2, min_overlap=0.3)
    depth = depth_condition(frames["depths"], 4)
    condition = None
    if interpolate:
        condition = torch.zeros(1, 3, 5, HEIGHT // 4, WIDTH // 4)
        for view in (0, 2):
            generator = keyed_generator("given", 5, "x", ids[view])
            condition[0, view, :4] = backbone.encode_images(pictures["images"][0, view][None], generator)[0]
            condition[0, view, 4] = 1
    unet = MultiViewUNet(pipeline.unet, pipeline.adapter)
    abar = pipeline.scheduler.alphas_cumprod
    shape = (4, HEIGHT // 4, WIDTH // 4)
    x = torch.stack([torch.randn(shape, generator=keyed_generator("noise", 5, "x", frame)) for frame in ids])[None]
    for t, s in ((751, 501), (501, 251), (251, 1), (1, 0)):
        negative, positive = (
            unet(torch.cat([x, depth], 2), torch.tensor([t]), hidden, geometry, condition=condition)
            for hidden in (empty, text)
        )
        e = negative + 3.0 * (positive - negative)
        x0 = (x - (1 - abar[t]).sqrt() * e) / abar[t].sqrt()
        x = abar[s].sqrt() * x0 + (1 - abar[s]).sqrt() * e
    torch.testing.assert_close(result.images, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["DDIM", "EulerAncestralDiscrete"])
@pytest.mark.parametrize("interpolate", [False, True])
def test_a_sample_does_not_depend_on_its_batch(pipeline, monkeypatch, name, interpolate):
    monkeypatch.setattr(pipeline, "scheduler", scheduler_from(name, pipeline.scheduler.config))
    both, prompts = walls(3, 3), ["a red wall", "a lamp"]
    pictures = given(2, 3) if interpolate else {}
    together = pipeline(prompts, **both, **pictures, seed=3, sample_ids=["a", "b"], **STEPS).images
    second = {key: value[1:] for key, value in (both | pictures).items()}
    alone = pipeline("a lamp", **second, seed=3, sample_ids=["b"], **STEPS).images
    assert together.shape == (2, 3, 3, HEIGHT, WIDTH)
    assert (alone[0] - together[1]).abs().max() < TOLERANCE
    for changed in ({"seed": 4, "sample_ids": ["b"]}, {"seed": 3, "sample_ids": ["other"]}):
        assert (pipeline("a lamp", **second, **changed, **STEPS).images[0] - together[1]).abs().max() > 0.01


def test_padding_changes_nothing(pipeline):
    frames, pictures = walls(4, 2), given(2, 4, views=[0])
    settings = {"seed": 3, **STEPS}
    mixed = pipeline(["a red wall", "a lamp"], sample_ids=["a", "b"], **frames, **pictures, **settings).images
    alone = {key: value[1:, :2] for key, value in (frames | pictures).items()}
    images = pipeline("a lamp", sample_ids=["b"], **alone, **settings).images
    assert (images[0] - mixed[1, :2]).abs().max() < TOLERANCE
    for name in ("K", "R", "t", "depths"):  # padding that looks like a view which the others would attend to
        frames[name][1, 2:] = frames[name][1, :1]
    pictures["known"][1] = 0  # and says that it is given, where no frame is
    pictures["known"][1, 3] = 1
    again = pipeline(["a red wall", "a lamp"], sample_ids=["a", "b"], **frames, **pictures, **settings).images
    alone["known"][:] = 0
    images = pipeline("a lamp", sample_ids=["b"], **alone, **settings).images
    assert (images[0] - again[1, :2]).abs().max() < TOLERANCE


def test_a_frame_starts_from_the_same_noise_with_any_others(pipeline):
    frames = walls(3)
    settings = {"seed": 3, "caa": False, **STEPS}  # without CAA frames do not see each other at all
    images = pipeline("a lamp", **frames, frame_ids=[[10, "b", 30]], **settings).images
    part = {key: value[:, 1:] for key, value in frames.items()}
    assert (pipeline("a lamp", **part, frame_ids=[["b", 30]], **settings).images - images[:, 1:]).abs().max() < 1e-4
    assert (pipeline("a lamp", **part, **settings).images - images[:, 1:]).abs().max() > 0.01


def test_a_fresh_adapter_is_the_plain_depth_base_frame_by_frame(pipeline):
    fresh = MVDiffusionDepthPipeline.from_backbone(backbone_of(pipeline))
    fresh.set_progress_bar_config(disable=True)
    frames, settings = walls(3, 2), {"seed": 1, **STEPS}
    prompts = ["a ball", "a ball"]
    images = fresh(prompts, **frames, **settings).images
    assert torch.equal(fresh(prompts, **frames, caa=False, **settings).images, images)
    assert torch.equal(fresh(prompts, **frames, **given(2, 3), **settings).images, images)
    for sample, view in ((0, 1), (1, 1)):
        one = {key: value[sample, view][None, None] for key, value in frames.items()}
        alone = fresh("a ball", **one, sample_ids=[str(sample)], frame_ids=[[view]], **settings).images
        assert (alone[0, 0] - images[sample, view]).abs().max() < TOLERANCE
    changed = frames | {"depths": frames["depths"].flip(-1)}
    assert (fresh(prompts, **changed, **settings).images - images).abs().max() > 0.01


@torch.no_grad()
def test_one_frame_of_a_fresh_model_is_the_stock_unet(pipeline):
    fresh = MVDiffusionDepthPipeline.from_backbone(backbone_of(pipeline))
    fresh.set_progress_bar_config(disable=True)
    frames = walls(2)
    found = fresh("a ball", **frames, seed=1, num_inference_steps=1, guidance_scale=1, output_type="latent").images
    text = backbone_of(pipeline).encode_prompts(["a ball"])
    abar = pipeline.scheduler.alphas_cumprod
    for view in (0, 1):
        x = torch.randn((1, 4, HEIGHT // 4, WIDTH // 4), generator=keyed_generator("noise", 1, "0", view))
        depth = depth_condition(frames["depths"], 4)[0, view][None]
        e = pipeline.unet(torch.cat([x, depth], 1), 1, text).sample
        x0 = (x - (1 - abar[1]).sqrt() * e) / abar[1].sqrt()
        torch.testing.assert_close(found[0, view], (abar[0].sqrt() * x0 + (1 - abar[0]).sqrt() * e)[0])


def test_controls(pipeline):
    frames, settings = walls(3, 3), {"seed": 1, "sample_ids": ["a", "b"], **STEPS}
    prompts = ["a ball", "red wall"]
    full = pipeline(prompts, **frames, **settings).images
    own = pipeline(prompts, **frames, neighbour_batch=[0, 1], **settings).images
    torch.testing.assert_close(own, full)
    different = [full] + [
        pipeline(prompts, **frames, **changed, **settings).images
        for changed in (
            {"neighbour_batch": [1, 0]},
            {"attention_enabled": False},
            {"caa": False},
            {"negative_prompt": "red"},
            {"guidance_scale": 1.0},
            given(2, 3),
            given(2, 3, seed=1),
            given(2, 3, views=[0]),
        )
    ]
    assert all((a - b).abs().max() > 0.005 for i, a in enumerate(different) for b in different[:i])
    listed = pipeline(prompts, **frames, negative_prompt=["red"] * 3, **settings).images
    assert torch.equal(listed, pipeline(prompts, **frames, negative_prompt="red", **settings).images)
    nothing = given(2, 3, views=[])
    assert torch.equal(pipeline(prompts, **frames, **nothing, **settings).images, full)
    only_first = given(2, 3)
    only_first["known"][1] = 0  # the second sample of the batch is generated, as if the first were not there
    mixed = pipeline(prompts, **frames, **only_first, **settings).images
    assert (mixed[1] - full[1]).abs().max() < TOLERANCE
    assert (mixed[0] - full[0]).abs().max() > 0.01


def test_output_types_prompt_forms_and_the_callback(pipeline):
    frames, seen = walls(2), []
    settings = {"seed": 1, "num_inference_steps": 1}
    outputs = {kind: pipeline("a ball", output_type=kind, **frames, **settings) for kind in ("pil", "np", "pt")}
    pixels = pipeline([["a ball", "a ball"]], output_type="uint8", **frames, **settings).images
    assert pixels.shape == (1, 2, HEIGHT, WIDTH, 3)
    assert torch.equal(to_uint8(outputs["pt"].images.movedim(2, -1) * 2 - 1), pixels)
    assert np.array_equal(outputs["np"].images, outputs["pt"].images.movedim(2, -1).numpy())
    assert np.array_equal(np.array(outputs["pil"].images[0][1]), pixels[0, 1].numpy())

    def callback(pipe, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    result = pipeline("a ball", output_type="latent", callback_on_step_end=callback, **frames, **settings)
    assert seen == [(0, (1, 2, 4, 6, 8))]
    assert not result.images.any()
    assert isinstance(pipeline, DiffusionPipeline)
    assert set(pipeline.components) == {"vae", "text_encoder", "tokenizer", "unet", "adapter", "scheduler"}


def test_saving_and_opening(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    loaded = MVDiffusionDepthPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.height, loaded.width, loaded.prompt_prefix) == (HEIGHT, WIDTH, pipeline.prompt_prefix)
    frames, settings = walls(2) | given(1, 2, views=[0]), {"seed": 2, **STEPS}
    assert torch.equal(loaded("a ball", **frames, **settings).images, pipeline("a ball", **frames, **settings).images)
    with pytest.raises(ValueError, match=r"model must be a panorama model; got a depth model, in .*model"):
        MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")


def test_a_base_or_an_adapter_that_does_not_fit_is_refused(pipeline, tmp_path):
    backbone = load_backbone(tiny_base(tmp_path / "plain"))
    with pytest.raises(ValueError, match=r"base must have a UNet with 4 \+ 1 input channels, latents and depth; got 4"):
        MVDiffusionDepthPipeline.from_backbone(backbone)
    with pytest.raises(ValueError, match="another model"):
        MVDiffusionDepthPipeline.from_backbone(backbone_of(pipeline), MultiViewAdapter([32, 96], 96, [96, 32]))


FRAMES = walls(3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depths": FRAMES["depths"][:, :2]}, r"K must have shape \[B, V, 3, 3\]; got \[1, 3, 3, 3\]"),
        ({"depths": FRAMES["depths"][..., :30]}, r"width .* multiple of 4.*got 30.*Use 28 or 32"),
        ({"t": FRAMES["t"][..., :2]}, r"t must have shape \[B, V, 3\]"),
        ({"K": FRAMES["K"] * float("nan")}, "K must be finite"),
        ({"prompt": ["a", "b"]}, "prompt must be for 1 samples, as depths has; got 2"),
        ({"prompt": [["a", "b"]]}, r"one text per view \(3\)"),
        (walls(8) | {"prompt": [["a"] * 7]}, r"one text per view \(8\); got .* \(7\), in sample 0"),
        ({"frame_ids": [[1, 2]]}, r"frame_ids must be 1 lists of 3 names; got \[\[1, 2\]\]"),
        ({"sample_ids": ["a", "b"]}, r"sample_ids must be one per sample \(1\)"),
        ({"known": given(1, 3)["known"]}, "images are required where known is 1"),
        (given(1, 3) | {"images": torch.full((1, 3, 3, HEIGHT, WIDTH), 3.0)}, r"images must lie in \[-1, 1\]; got .*3"),
        (given(1, 3) | {"known": torch.eye(HEIGHT, WIDTH).expand(1, 3, 1, -1, -1)}, "known must be 1 or 0 on whole"),
        (
            given(1, 3) | {"known": 1 - torch.eye(HEIGHT, WIDTH).expand(1, 3, 1, -1, -1)},
            "got a frame that is known in part",
        ),
        ({"output_type": "jpeg"}, "output_type must be one of"),
    ],
)
def test_wrong_arguments(pipeline, changed, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**({"prompt": "a ball", **FRAMES, "num_inference_steps": 1} | changed))


def test_a_model_without_image_condition_takes_no_frames(tmp_path):
    pipeline = make_depth_pipeline(tmp_path, image_condition=False)
    with pytest.raises(ValueError, match="known must be left out for a model without image_condition"):
        pipeline("a ball", **walls(2), **given(1, 2), **STEPS)
    assert pipeline("a ball", **walls(2), **STEPS).images.shape == (1, 2, 3, HEIGHT, WIDTH)


def test_bfloat16_and_autocast(tmp_path):
    pipeline = make_depth_pipeline(tmp_path)
    frames, settings = walls(2) | given(1, 2, views=[0]), {"seed": 1, **STEPS}
    exact = pipeline("a ball", **frames, **settings).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = pipeline("a ball", **frames, **settings).images
    half = pipeline.to(torch.bfloat16)("a ball", **frames, **settings).images
    assert half.dtype == mixed.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.1
    assert 0 < (mixed - exact).abs().mean() < 0.1
