"""Any base of the shape of Stable Diffusion 1 or 2 generates and trains as it is; others are one clear error."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.single_view import SingleViewModule
from tests.bases import BASES, DEPTH, INPAINTING, write_base
from tests.pipelines.depth_pipelines import walls
from tests.tiny import tiny_base, tiny_tokenizer
from tests.training.grouped import grouped

RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)


@pytest.fixture(scope="module", params=list(BASES))
def base(request, tmp_path_factory):
    return request.param, write_base(tmp_path_factory.mktemp("base"), BASES[request.param])


@torch.no_grad()
def test_opens_as_diffusers_does(base):
    name, folder = base
    backbone = load_backbone(folder)
    settings = {"safety_checker": None, "feature_extractor": None, "variant": BASES[name].variant}
    stock = StableDiffusionPipeline.from_pretrained(str(folder), **settings)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(backbone, part).state_dict(), getattr(stock, part).state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(value, theirs[key].float()) for key, value in ours.items())
    words = "a red lamp on the table"
    assert backbone.tokenizer(words).input_ids == stock.tokenizer(words).input_ids
    assert backbone.tokenizer(words).input_ids == tiny_tokenizer()(words).input_ids  # as it was before it was written
    expected, _ = stock.to(torch.float32).encode_prompt([words], "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(backbone.encode_prompts([words]), expected, rtol=1e-4, atol=1e-4)
    config = backbone.scheduler.config
    assert config.prediction_type == stock.scheduler.config.get("prediction_type", "epsilon")
    assert not config.clip_sample  # latents leave [-1, 1]
    torch.testing.assert_close(backbone.scheduler.alphas_cumprod, stock.scheduler.alphas_cumprod)


def test_generates_a_panorama(base):
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(load_backbone(base[1]), rig=RIG)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a red lamp", seed=0, num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 3, 16, 16)
    assert torch.isfinite(images).all()
    assert images.std() > 0.01


def test_takes_a_training_step(base, tiny_folder):
    module = MultiViewModule(base=str(base[1]), **grouped(head_dim=8))
    module.configure_model()
    data = EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2).train_dataset()
    batch = MultiViewBatch.collate([data[0, 0]])
    module.lr_scheduler = None
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(module.noise_loss(batch, batch.prompts))
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]  # the same noise, after one step


def test_ddim_takes_the_last_step_that_the_bases_own_scheduler_would(tmp_path):
    unsaid = load_backbone(write_base(tmp_path / "unsaid", BASES["1.5, a config without clip_sample"])).scheduler
    said = load_backbone(write_base(tmp_path / "said", BASES["1.4"])).scheduler
    assert {k: unsaid.config[k] for k in ("clip_sample", "set_alpha_to_one", "steps_offset")} == {
        k: said.config[k] for k in ("clip_sample", "set_alpha_to_one", "steps_offset")
    }
    sample, noise = torch.full((1, 4, 2, 2), 6.0), torch.zeros(1, 4, 2, 2)
    for scheduler in (unsaid, said):
        scheduler.set_timesteps(50)
        step = scheduler.step(noise, scheduler.timesteps[-1], sample)
        abar = scheduler.alphas_cumprod
        torch.testing.assert_close(step.prev_sample, sample * (abar[0] / abar[1]) ** 0.5)  # eps = 0, not clipped to 1


def test_a_depth_base_of_its_own_shape_makes_frames(tmp_path):
    pipeline = MVDiffusionDepthPipeline.from_backbone(load_backbone(write_base(tmp_path, DEPTH)))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a lamp", **walls(2), seed=0, num_inference_steps=1, output_type="pt").images
    assert torch.isfinite(images).all()


TASKS = {
    "panorama": MVDiffusionPanoramaPipeline,
    "depth": MVDiffusionDepthPipeline,
}


@pytest.mark.parametrize(
    ("task", "shape", "message"),
    [
        (
            "panorama",
            INPAINTING,
            r"with 4 input channels, the latents, .*; got 9 \(an inpainting base\). Choose a text",
        ),
        ("panorama", DEPTH, r"with 4 input channels, the latents, for this task; got 5 \(a depth base\)"),
        ("depth", INPAINTING, r"with 4 \+ 1 input channels, latents and depth; got 9"),
        ("depth", BASES["2.0 base"], r"with 4 \+ 1 input channels, latents and depth; got 4.*add_input"),
    ],
    ids=["inpainting for panorama", "depth for panorama", "inpainting for depth", "text-to-image for depth"],
)
def test_a_base_for_another_task_is_refused_by_its_channels(tmp_path, task, shape, message):
    folder = write_base(tmp_path, shape)
    with pytest.raises(ValueError, match=f"base must have a UNet {message}"):
        TASKS[task].from_backbone(load_backbone(folder))
    with pytest.raises(ValueError, match=f"base must have a UNet {message}"):
        MultiViewModule(task, base=str(folder)).configure_model()


@pytest.mark.parametrize(("task", "channels"), [("panorama", "4"), ("depth", r"4 \+ 1")])
def test_single_view_training_names_the_channels_it_gives(tmp_path, task, channels):
    base = write_base(tmp_path / "base", INPAINTING)
    with pytest.raises(ValueError, match=f"base must have a UNet with {channels} input channels, .*; got 9"):
        SingleViewModule(out=str(tmp_path / "out"), task=task, base=str(base))
    with pytest.raises(ValueError, match=r"add_input must be false .*; got true"):
        SingleViewModule(out=str(tmp_path / "out"), task=task, base=str(base), add_input=True)


def test_another_kind_of_base_is_refused(tmp_path):
    folder = tiny_base(tmp_path / "xl")
    index = json.loads((folder / "model_index.json").read_text())
    plain = index | {"text_encoder_2": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(plain))
    load_backbone(folder)
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    (folder / "model_index.json").write_text(json.dumps(index | second | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(ValueError, match="of Stable Diffusion 1 or 2; got a StableDiffusionXLPipeline with text_"):
        load_backbone(folder)
    (folder / "model_index.json").unlink()  # without it the UNet tells
    backbone = load_backbone(folder)
    backbone.unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(ValueError, match=r"unet.config.addition_embed_type must be None; got 'text_time'"):
        MVDiffusionPanoramaPipeline.from_backbone(backbone)


def test_whole_weights_win_over_fp16_variants(tmp_path):
    folder = write_base(tmp_path, BASES["2.0 base"])
    expected = load_backbone(folder).weights_hash()
    half = write_base(tmp_path / "half", BASES["1.5, fp16 files"], seed=1)
    for path in half.rglob("*.fp16.safetensors"):
        shutil.copy(path, folder / path.relative_to(half))
    assert load_backbone(folder).weights_hash() == expected
