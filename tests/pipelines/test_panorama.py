"""MVDiffusionPanoramaPipeline on tiny real components: against a loop written out, and what a caller may rely on."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from mvdiff.diffusion import view_noise
from mvdiff.geometry.cameras import RingRig
from mvdiff.geometry.panorama import stitch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.schedulers import scheduler_from
from mvdiff.samples import to_uint8
from tests.geometries import camera_geometry
from tests.pipelines.conftest import RING, UNEVEN, make_pipeline

STEPS = {"num_inference_steps": 2, "output_type": "pt"}
TOLERANCE = 1e-4  # in [0, 1], far below one 8-bit level (4e-3); docs/generate.md states it


@torch.no_grad()
def test_matches_a_loop_written_out(pipeline):
    # An independent sampler: DDIM with eta 0 by hand, the model's own parts, one sample.
    views = ["red wall", "blue wall", "a table", "a lamp"]
    result = pipeline(
        [views], seed=5, sample_ids=["x"], guidance_scale=3.0, num_inference_steps=4, output_type="latent"
    )

    backbone = Backbone(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet, pipeline.scheduler)
    text = backbone.encode_prompts(["this is one view of a scene " + view for view in views])[None]
    empty = backbone.encode_prompts([""] * 4)[None]
    geometry = camera_geometry(*RING.cameras(), 8, 8, stride=4, num_levels=2)
    unet = MultiViewUNet(pipeline.unet, pipeline.adapter)
    abar = pipeline.scheduler.alphas_cumprod
    x = view_noise(5, "x", num_views=4, shape=(4, 8, 8))[None]
    for t, s in ((751, 501), (501, 251), (251, 1), (1, 0)):
        negative, positive = (unet(x, torch.tensor([t]), hidden, geometry) for hidden in (empty, text))
        e = negative + 3.0 * (positive - negative)
        x0 = (x - (1 - abar[t]).sqrt() * e) / abar[t].sqrt()
        x = abar[s].sqrt() * x0 + (1 - abar[s]).sqrt() * e
    torch.testing.assert_close(result.images, x, rtol=1e-3, atol=1e-3)
    assert result.panoramas is None


def test_a_sample_does_not_depend_on_its_batch(pipeline):
    prompts, names = ["a red room", "a blue room", "a lamp"], ["r", "b", "l"]
    together = pipeline(prompts, seed=3, sample_ids=names, **STEPS).images
    alone = pipeline("a blue room", seed=3, sample_ids=["b"], **STEPS).images
    assert (alone[0] - together[1]).abs().max() < TOLERANCE
    for changed in ({"seed": 4, "sample_ids": ["b"]}, {"seed": 3, "sample_ids": ["other"]}):
        assert (pipeline("a blue room", **changed, **STEPS).images[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["DDPM", "EulerAncestralDiscrete", "EulerDiscrete", "DPMSolverMultistep"])
def test_any_scheduler_and_no_dependence_on_the_batch(pipeline, monkeypatch, name):
    monkeypatch.setattr(pipeline, "scheduler", scheduler_from(name, pipeline.scheduler.config))
    settings = {"seed": 3, "num_inference_steps": 3, "output_type": "pt"}
    together = pipeline(["a ball", "a chair"], sample_ids=["x", "y"], **settings).images
    alone = pipeline("a chair", sample_ids=["y"], **settings).images
    assert torch.isfinite(together).all()
    assert together.std() > 0.01
    assert (alone[0] - together[1]).abs().max() < TOLERANCE


def test_zero_terminal_snr_base(tmp_path):
    pipeline = make_pipeline(tmp_path / "base", prediction_type="v_prediction", zero_terminal_snr=True)
    for name in ("DDIM", "EulerDiscrete"):
        pipeline.scheduler = scheduler_from(name, pipeline.scheduler.config)
        images = pipeline("a room", seed=0, **STEPS).images
        assert torch.isfinite(images).all()
        assert images.std() > 0.01


def test_prompt_forms_give_the_same_images(pipeline):
    first = pipeline("a ball", seed=1, **STEPS).images
    for prompt in (["a ball"], [["a ball"] * 4]):
        assert torch.equal(pipeline(prompt, seed=1, **STEPS).images, first)
    prefixed = pipeline("this is one view of a scene a ball", seed=1, prompt_prefix="", **STEPS).images
    assert torch.equal(prefixed, first)
    per_view = pipeline([["a ball", "a lamp", "a ball", "a ball"]], seed=1, caa=False, **STEPS).images
    plain = pipeline("a ball", seed=1, caa=False, **STEPS).images
    same = [(per_view[0, view] - plain[0, view]).abs().max() < TOLERANCE for view in range(4)]
    assert same == [True, False, True, True]


def test_fewer_prompts_than_views_is_one_clear_error(pipeline):
    with pytest.raises(
        ValueError, match=r"prompts must be one text for all views, or one text per view \(4\); got .*2"
    ):
        pipeline([["a ball", "a lamp"]])
    with pytest.raises(ValueError, match=r"one text per view \(8\); got .* \(7\), in sample 0\."):
        pipeline([["a ball"] * 7], rig=RingRig(num_views=8, height=32, width=32))
    with pytest.raises(ValueError, match="prompt must hold at least one text"):
        pipeline([])


def test_guidance_and_negative_prompt_matter(pipeline):
    settings = {"seed": 1, **STEPS}
    images = [
        pipeline("a ball", **changed, **settings).images
        for changed in (
            {"guidance_scale": 9.0},
            {"guidance_scale": 1.0},
            {"guidance_scale": 0.0},
            {"guidance_scale": 9.0, "negative_prompt": "red"},
        )
    ]
    assert not torch.allclose(images[0], images[1])
    assert torch.equal(images[1], images[2])
    assert not torch.allclose(images[0], images[3])


def test_a_negative_prompt_for_each_view(pipeline):
    settings = {"seed": 1, "caa": False, **STEPS}  # every view by itself
    texts = ["", "red", "", "a ball"]
    listed = pipeline(["a lamp", "a table"], negative_prompt=texts, **settings).images
    for view, text in enumerate(texts):
        alone = pipeline(["a lamp", "a table"], negative_prompt=text, **settings).images
        torch.testing.assert_close(listed[:, view], alone[:, view], rtol=0, atol=1e-5)
    assert (listed[:, 1] - listed[:, 0]).abs().max() > 1e-3
    one = pipeline("a lamp", negative_prompt="red", **settings).images
    assert torch.equal(pipeline("a lamp", negative_prompt=["red"] * 4, **settings).images, one)
    for wrong, text in (
        (["red"] * 3, r"negative_prompt must be one text for all views, or one per view \(4\); got 3"),
        ([], r"negative_prompt must be one text for all views, or one per view \(4\); got 0"),
        (
            ["red", None, "", ""],
            r"negative_prompt must be one text .*, or a list of one text per view; got \['red', None",
        ),
        (3, "negative_prompt must be one text for all views, or a list of one text per view; got 3"),
    ):
        with pytest.raises(ValueError, match=text):
            pipeline("a lamp", negative_prompt=wrong, **settings)


def test_another_rig_at_call_time(pipeline):
    result = pipeline([["a ball", "a lamp", "red"]], rig=UNEVEN, seed=1, **STEPS)
    assert result.images.shape == (1, 3, 3, 32, 48)
    # As dense as the sharpest view: f = 24 / tan(35 deg) = 34.3, pi f = 107.7 rows.
    assert result.panoramas.shape == (1, 3, 108, 216)
    one = pipeline("a ball", rig=RingRig(num_views=1, height=32, width=32), seed=1, panorama_height=16, **STEPS)
    assert one.images.shape == (1, 1, 3, 32, 32)
    assert one.panoramas.shape == (1, 3, 16, 32)
    with pytest.raises(ValueError, match=r"height .* multiple of 4.*got 30.*Use 28 or 32"):
        pipeline("a ball", rig=RingRig(height=30, width=32))


def test_output_types_agree(pipeline, tmp_path):
    settings = {"seed": 1, "num_inference_steps": 1}
    outputs = {kind: pipeline("a ball", output_type=kind, **settings) for kind in ("pil", "np", "pt", "uint8")}
    pixels = outputs["uint8"].images
    assert pixels.shape == (1, 4, 32, 32, 3)
    assert pixels.dtype == torch.uint8
    floats = outputs["pt"].images
    assert torch.equal(to_uint8(floats.movedim(2, -1) * 2 - 1), pixels)
    assert np.array_equal(outputs["np"].images, floats.movedim(2, -1).numpy())
    assert isinstance(outputs["pil"].images[0][3], Image.Image)
    assert np.array_equal(np.array(outputs["pil"].images[0][3]), pixels[0, 3].numpy())
    assert np.array_equal(np.array(outputs["pil"].panoramas[0]), outputs["uint8"].panoramas[0].numpy())
    for suffix in ("png", "jpg", "webp"):
        path = tmp_path / f"panorama.{suffix}"
        outputs["pil"].panoramas[0].save(path)
        assert b'GPano:ProjectionType="equirectangular"' in path.read_bytes()
    with pytest.raises(ValueError, match="output_type must be one of pil, np"):
        pipeline("a ball", output_type="jpeg")


@pytest.mark.parametrize("autocast", [False, True])
def test_panoramas_are_the_stitched_views_and_mark_what_no_view_sees(pipeline, autocast):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):  # as in bf16-mixed validation and predict
        result = pipeline("a ball", seed=1, **STEPS)
    height = result.panoramas.shape[-2]
    panorama, covered = stitch(result.images[0] * 2 - 1, *RING.cameras(), height, 2 * height)
    torch.testing.assert_close(result.panoramas[0] * 2 - 1, panorama)
    assert torch.equal(result.covered, covered)
    assert (result.panoramas[0][:, ~covered] == 0.5).all()
    assert not covered[0].any()
    assert covered[height // 2].all()


def test_controls(pipeline):
    settings = {"seed": 1, "sample_ids": ["a", "b"], **STEPS}
    prompts = ["a ball", "red wall"]
    full = pipeline(prompts, **settings).images
    own = pipeline(prompts, neighbour_batch=[0, 1], **settings).images
    foreign = pipeline(prompts, neighbour_batch=[1, 0], **settings).images
    off = pipeline(prompts, attention_enabled=False, **settings).images
    assert pipeline.adapter.mid_block.attention_enabled  # for whoever trains this adapter on
    plain = pipeline(prompts, caa=False, **settings).images
    torch.testing.assert_close(own, full)
    different = [full, foreign, off, plain]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(different) for b in different[:i])
    torch.testing.assert_close(pipeline(prompts, **settings).images, full)
    for training in (True, False):
        pipeline.adapter.train(training)
        pipeline(prompts, caa=False, **settings)
        assert pipeline.adapter.training is training
    with pytest.raises(ValueError, match="neighbour_batch must be"):
        pipeline(prompts, neighbour_batch=[0, 2], **settings)


def test_a_fresh_adapter_is_the_plain_base(pipeline):
    backbone = Backbone(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet, pipeline.scheduler)
    fresh = MVDiffusionPanoramaPipeline.from_backbone(backbone, rig=RING)
    fresh.set_progress_bar_config(disable=True)
    settings = {"seed": 1, **STEPS}
    assert torch.equal(fresh("a ball", **settings).images, fresh("a ball", caa=False, **settings).images)
    with pytest.raises(ValueError, match="base must be a BaseReference"):
        fresh.save_pretrained("nowhere")


def test_an_adapter_of_another_base_is_refused(pipeline):
    backbone = Backbone(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet, pipeline.scheduler)
    with pytest.raises(ValueError, match="another model"):
        MVDiffusionPanoramaPipeline.from_backbone(backbone, MultiViewAdapter([32, 96], 96, [96, 32]))


def test_seeds_and_generators(pipeline):
    def run(**given):
        result = pipeline(["a ball", "a lamp"], num_inference_steps=1, output_type="latent", **given)
        return result.seeds, result.images

    seeds, images = run(generator=torch.Generator().manual_seed(8))
    assert seeds[0] == seeds[1]
    assert torch.equal(run(generator=torch.Generator().manual_seed(8))[1], images)
    assert torch.equal(run(seed=seeds[0])[1], images)
    pair, _ = run(generator=[torch.Generator().manual_seed(8), torch.Generator().manual_seed(9)])
    assert pair[0] == seeds[0] != pair[1]
    assert run()[0] != run()[0]
    with pytest.raises(ValueError, match="seed and generator exclude each other"):
        run(seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="sample_ids must be one per sample"):
        run(seed=1, sample_ids=["a"])


def test_is_a_diffusers_pipeline(pipeline):
    assert isinstance(pipeline, DiffusionPipeline)
    parts = {"vae", "text_encoder", "tokenizer", "unet", "adapter", "scheduler"}
    assert set(pipeline.components) == parts
    seen = []

    def callback(pipe, step, timestep, tensors):
        assert pipe is pipeline
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    result = pipeline("a ball", seed=1, num_inference_steps=2, output_type="latent", callback_on_step_end=callback)
    assert seen == [(0, 501, (1, 4, 4, 8, 8)), (1, 1, (1, 4, 4, 8, 8))]
    assert torch.equal(result.images, torch.zeros(1, 4, 4, 8, 8))
    assert isinstance(pipeline.scheduler, DDIMScheduler)


def test_bfloat16(tmp_path):
    pipeline = make_pipeline(tmp_path / "base")
    exact = pipeline("a ball", seed=1, **STEPS).images
    half = pipeline.to(torch.bfloat16)("a ball", seed=1, **STEPS).images
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.1


def test_the_default_rig_can_be_set(tmp_path):
    own = make_pipeline(tmp_path / "base")
    own.rig = UNEVEN
    assert own.model_info.views == {"rig": UNEVEN}
    assert len(own("a ball", num_inference_steps=1, seed=np.int64(3)).images[0]) == UNEVEN.num_views


def test_latents_take_the_place_of_the_keyed_noise(pipeline):
    keyed = pipeline("a lamp", seed=5, sample_ids=["x"], **STEPS).images
    noise = view_noise(5, "x", num_views=4, shape=(4, 8, 8))[None]
    assert torch.equal(pipeline("a lamp", seed=9, sample_ids=["y"], latents=noise, **STEPS).images, keyed)
    with pytest.raises(ValueError, match=r"latents must have the shape \[1, 4, 4, 8, 8\]; got \[4, 4, 8, 8\]"):
        pipeline("a lamp", latents=noise[0], **STEPS)
