"""timesteps, sigmas, guidance_rescale and clip_skip mean what they mean in diffusers, whose pipeline is the oracle."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch.testing import assert_close

from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.schedulers import scheduler_from
from mvdiff.settings import Sampling
from tests.pipelines.conftest import make_pipeline

ONE_VIEW = Rig([(0, 0, 90)], height=32, width=32)
CALL = {"guidance_scale": 5.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    made = make_pipeline(tmp_path_factory.mktemp("settings") / "base", rig=ONE_VIEW)
    made.scheduler = scheduler_from("EulerDiscrete", made.scheduler.config)
    return made


@pytest.fixture(scope="module")
def stock(pipeline):
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: getattr(pipeline, name) for name in names}
    made = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"num_inference_steps": 3, "guidance_rescale": 0.7},
        {"timesteps": [901, 500, 20]},
        {"sigmas": [12.0, 3.0, 0.5, 0.0]},  # the Euler scheduler of Stable Diffusion takes the last level, too
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_settings_give_what_the_pipeline_of_diffusers_gives(pipeline, stock, settings):
    noise, steps = torch.randn(1, 1, 4, 8, 8), []
    found = pipeline(
        "a red ball",
        latents=noise,
        prompt_prefix="",
        **CALL,
        **settings,
        callback_on_step_end=lambda pipeline, step, timestep, tensors: steps.append(float(timestep)),
    ).images
    expected = stock("a red ball", height=32, width=32, latents=noise[0], **CALL, **settings).images
    assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    assert len(steps) == pipeline.num_timesteps == 3
    if "timesteps" in settings:
        assert steps == settings["timesteps"]


def test_clip_skip_takes_an_earlier_layer_of_prompts_and_not_of_negative_prompts(pipeline):
    taken = {}

    def keep(pipeline, step, timestep, tensors):
        taken.update(tensors)

    names = ("prompt_embeds", "negative_prompt_embeds")
    call = {"num_inference_steps": 1, "callback_on_step_end": keep, "callback_on_step_end_tensor_inputs": names} | CALL
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    ids = tokenizer("a ball", return_tensors="pt", padding="max_length", max_length=77).input_ids
    with torch.no_grad():
        first = encoder.encoder.layers[0] if hasattr(encoder, "encoder") else encoder.text_model.encoder.layers[0]
        outputs = []
        handle = first.register_forward_hook(
            lambda module, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        last = encoder(ids)[0]
        handle.remove()
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
    for skip, expected in ((None, last), (0, last), (1, norm(outputs[0]))):  # the tiny encoder has two layers
        pipeline("a ball", negative_prompt="a ball", prompt_prefix="", clip_skip=skip, **call)
        assert_close(taken["prompt_embeds"][0], expected)
        assert_close(taken["negative_prompt_embeds"][0], last)
    with pytest.raises(ValueError, match="clip_skip must lie between 0 and 1; got 2"):
        pipeline("a ball", clip_skip=2, **call)


def test_schedulers_without_custom_timesteps_and_both_kinds_at_once_are_refused(pipeline):
    with pytest.raises(ValueError, match=r"timesteps must be left out where sigmas are set; got \[500\]"):
        pipeline("a ball", timesteps=[500], sigmas=[3.0], **CALL)
    own = pipeline.scheduler
    pipeline.scheduler = scheduler_from("DDIM", own.config)
    with pytest.raises(ValueError, match=r"timesteps must be left out for DDIMScheduler, .*; got \[500\]"):
        pipeline("a ball", timesteps=[500], **CALL)
    pipeline.scheduler = own


def test_samples_record_new_settings_only_where_they_change_something():
    assert set(Sampling().recorded()) == {"num_inference_steps", "guidance_scale", "negative_prompt", "eta"}
    assert Sampling(guidance_rescale=0.5).recorded()["guidance_rescale"] == 0.5
