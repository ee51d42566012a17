"""The 2023 release itself: its checkpoints convert, predict, sample and convert back (data: notes/real-data.md)."""

import json
from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mvdiff.batch import MultiViewBatch
from mvdiff.cli.main import main
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline
from mvdiff.denoising import denoise, guided
from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.geometry import rounded_rotations
from mvdiff.models.prompts import PromptEncoder
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.samples import to_uint8
from mvdiff.settings import Sampling
from mvdiff.tasks.task import Condition, denoiser

RINGS = ("panorama", "outpainting")


@pytest.fixture(scope="module", params=(*RINGS, "depth"))
def case(request, tmp_path_factory, reference_2023):
    """A converted checkpoint beside the release's inputs and outputs."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    state = load_file(reference_2023 / task / "state_dict.safetensors")
    torch.save({"state_dict": OrderedDict(state), "epoch": 9}, folder / "upstream.ckpt")
    arguments = [
        "convert",
        "upstream",
        folder / "upstream.ckpt",
        "--task",
        task.removesuffix("ing"),
        "--out",
        folder / "model",
    ]
    arguments += ["--base", reference_2023 / task / "base", "--save_base", folder / "base"]
    arguments += ["--height", "128", "--width", "192" if task == "depth" else "128"]
    assert main([str(argument) for argument in arguments]) == 0
    with safe_open(reference_2023 / task / "inputs_outputs.safetensors", "pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        prompts = json.loads(file.metadata()["prompts"])
    pipeline = MultiViewPipeline.from_pretrained(folder / "model")
    pipeline.set_progress_bar_config(disable=True)
    return SimpleNamespace(task=task, folder=folder, state=state, prompts=prompts, pipeline=pipeline, **values)


def batch_of(case) -> MultiViewBatch:
    """The release's cameras for depth, our own for rings."""
    if case.task != "depth":
        K, R = RingRig(height=128, width=128).cameras()
        return replace(MultiViewBatch.from_cameras(K, R, 128, 128), prompts=[case.prompts])
    R, t = case.poses[:, :3, :3], case.poses[:, :3, 3]
    K, t, depths = case.K.expand(1, 5, 3, 3), t[None], case.depths[None]
    return replace(MultiViewBatch.from_cameras(K, R[None], 128, 192, t, depths), prompts=[case.prompts])


def prediction(case, inputs, condition):
    """The pipeline's noise prediction of a UNet input, with taps that the adapter builds from the batch."""
    batch = batch_of(case)
    geometry = case.pipeline.adapter.geometry(case.pipeline.task.correspondences(batch), 8)
    predict = denoiser(case.pipeline._multi_view_unet(), batch, condition, geometry)
    with torch.no_grad():
        return predict(inputs, torch.tensor([421]), case.pe)


def assert_predicted(found, expected):
    """Compare view by view, relative to the size of a view's prediction."""
    error = (found - expected).flatten(2).norm(dim=-1) / expected.flatten(2).norm(dim=-1)
    assert error.max() <= 5e-6, error


def test_our_ring_has_the_rotations_of_the_release_bit_for_bit(reference_2023):
    for task in RINGS:
        R = load_file(reference_2023 / task / "inputs_outputs.safetensors")["R"][0]
        own = RingRig(height=128, width=128).cameras()[1]
        assert torch.equal(rounded_rotations(own), R)
        assert torch.equal(rounded_rotations(R), R)
        assert not torch.equal(own, R)


def test_text_embeddings_are_those_of_the_release(case):
    found = case.pipeline._encode_texts(case.prompts)
    half = case.task in RINGS  # float16 sums differ between libraries in their last bits
    assert (found - case.pe[0]).abs().max() <= (8e-3 if half else 5e-6)
    assert torch.equal(found, found.half().float()) == half


def test_commands_open_the_text_encoder_in_the_precision_of_the_release(case):
    folder = str(case.folder / "model")
    opened = open_pipeline(MultiViewPipeline, ModelOptions(model=folder), MemoryOptions())
    assert opened.text_encoder.dtype == (torch.float16 if case.task in RINGS else torch.float32)
    assert opened.unet.dtype == torch.float32
    asked = open_pipeline(MultiViewPipeline, ModelOptions(model=folder, dtype="bfloat16"), MemoryOptions())
    assert asked.text_encoder.dtype == asked.unet.dtype == torch.bfloat16


def test_predictions_equal_those_of_the_release(case):
    latents, channels = case.inp[:, :, :4], case.inp[:, :, 4:]
    condition = Condition(channels=channels if channels.shape[2] else None)
    expected = case.out_generation if case.task == "depth" else case.out
    found = prediction(case, latents, condition)
    assert_predicted(found, expected)


def test_predictions_with_given_frames_equal_those_of_the_release(case):
    if case.task != "depth":
        return  # the release conditions on frames in the depth task alone
    condition = Condition(case.inp[:, :, 4:], case.condition, torch.tensor([True]))
    found = prediction(case, case.inp[:, :, :4], condition)
    assert_predicted(found, case.out_interpolation)


def test_samples_equal_those_of_the_release(case):
    """Ten DDIM steps from the release's noise: at least 98% of the values equal, none off by more than 2."""
    sampling = Sampling(num_inference_steps=10, guidance_scale=9.0)
    if case.task == "outpainting":  # the given picture is known by its latent alone, which no call takes
        images = case.pipeline._decode(outpainted(case, sampling))
    else:
        images = case.pipeline.generate(batch_of(case), sampling, latents=case.lat, prompt_prefix="").rendered
    found = to_uint8(images.movedim(2, -1)).int()
    expected = (case.sampled_generation if case.task == "depth" else case.sampled).int()
    difference = (found - expected).abs()
    assert (difference == 0).float().mean() >= 0.98
    assert difference.max() <= 2


@torch.no_grad()
def outpainted(case, sampling):
    """Sample with the release's mask and masked latents."""
    text = PromptEncoder(case.pipeline._encode_texts, "")
    batch, condition = batch_of(case), Condition(channels=case.inp[:, :, 4:])
    geometry = case.pipeline.adapter.geometry(case.pipeline.task.correspondences(batch), 8)
    predict = denoiser(case.pipeline._multi_view_unet(), batch, condition, geometry)
    steps = guided(predict, text([case.prompts]), text.negative([[""] * 8]), sampling.guidance_scale)
    return denoise(steps, case.pipeline.scheduler, case.lat, sampling.num_inference_steps)


def test_converted_back_the_checkpoint_is_the_released_one_bit_for_bit(case):
    back = case.folder / "back.ckpt"
    arguments = ["convert", "to-upstream", case.folder / "model", "--with_base", "--out", back]
    assert main([str(argument) for argument in arguments]) == 0
    state = torch.load(back, weights_only=True)["state_dict"]
    assert {name: (value.shape, value.dtype) for name, value in state.items()} == {
        name: (value.shape, value.dtype) for name, value in case.state.items()
    }
    assert all(torch.equal(state[name], value) for name, value in case.state.items())
