"""What a callback sees and may change while a pipeline runs."""

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from mvdiff.pipelines.schedulers import scheduler_from
from tests.pipelines.depth_pipelines import make_depth_pipeline, walls

LATENT = {"seed": 1, "num_inference_steps": 4, "output_type": "latent"}


def run(pipeline, callback=None, **settings):
    return pipeline("a ball", **(LATENT | settings), callback_on_step_end=callback).images


def test_it_is_given_the_tensors_it_asks_for(pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, pipe.num_timesteps, pipe.guidance_scale, {n: tuple(t.shape) for n, t in tensors.items()}))

    expected = run(pipeline)
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    found = run(pipeline, callback, callback_on_step_end_tensor_inputs=names, guidance_scale=9.0)
    shapes = [(1, 4, 4, 8, 8), (1, 4, 77, 32), (1, 4, 77, 32)]
    assert seen == [(step, 4, 9.0, dict(zip(names, shapes, strict=True))) for step in range(4)]
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"callback_on_step_end_tensor_inputs must be among latents, .*; got 'noise'"):
        run(pipeline, callback, callback_on_step_end_tensor_inputs=["noise"])


def test_other_embeddings_act_on_the_steps_to_come(pipeline):
    other = {}

    def keep(pipe, step, timestep, tensors):
        other.update(tensors)

    def swap(pipe, step, timestep, tensors):
        return {"prompt_embeds": other["prompt_embeds"]} if step == 1 else None

    names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    latents = []
    pipeline("red wall", **LATENT, callback_on_step_end=keep, **names)

    def record(pipe, step, timestep, tensors):
        latents.append(tensors["latents"].clone())
        return swap(pipe, step, timestep, tensors)

    swapped = run(pipeline, record)
    plain = []
    expected = run(pipeline, lambda pipe, step, timestep, tensors: plain.append(tensors["latents"].clone()))
    assert [torch.equal(a, b) for a, b in zip(latents, plain, strict=True)] == [True, True, False, False]
    assert not torch.equal(swapped, expected)
    with pytest.raises(ValueError, match=r"must return prompt_embeds of shape \[1, 4, 77, 32\]; got \[4, 77, 32\]"):
        run(pipeline, lambda *_: {"prompt_embeds": torch.zeros(4, 77, 32)})


@pytest.mark.parametrize("scheduler", ["DDIM", "HeunDiscrete"])
def test_interrupt_leaves_out_the_rest(pipeline, monkeypatch, scheduler):
    monkeypatch.setattr(pipeline, "scheduler", scheduler_from(scheduler, pipeline.scheduler.config))
    kept = []

    def stop(pipe, step, timestep, tensors):
        kept.append(tensors["latents"])
        pipe._interrupt = step == 1

    assert torch.equal(run(pipeline, stop), kept[-1])
    assert len(kept) == 2
    assert pipeline.interrupt
    assert not torch.equal(run(pipeline), kept[-1])  # the next call runs to its end
    assert not pipeline.interrupt


def test_guidance_can_be_cut_off_as_diffusers_own_callback_does(pipeline):
    expected = run(pipeline)
    rows = []
    handle = pipeline.unet.conv_in.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    run(pipeline, SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1))
    handle.remove()
    assert rows == [8, 8, 4, 4]  # from then on the text alone is run
    assert torch.equal(run(pipeline), expected)


def test_depth_frames_take_the_same(tmp_path):
    pipeline = make_depth_pipeline(tmp_path)
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(sorted(tensors))
        pipe._interrupt = True

    frames = walls(2)
    pipeline(
        "a ball",
        **frames,
        **LATENT,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert seen == [["latents", "prompt_embeds"]]


def test_the_progress_bar_counts_steps_and_can_be_switched_off(pipeline, capsys):
    pipeline.set_progress_bar_config(disable=False)
    run(pipeline)
    assert "4/4" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    run(pipeline)
    assert capsys.readouterr().err == ""
