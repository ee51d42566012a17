"""RePaint: its steps against DDIM and their own properties, and frames that keep what earlier ones show."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from mvdiff.batch import MultiViewBatch
from mvdiff.data.layouts import open_recording
from mvdiff.data.sequences import key_sequence
from mvdiff.data.toyworld.write import write_walk
from mvdiff.denoising import denoise
from mvdiff.keyed import keyed_generator
from mvdiff.methods.independent import Independent
from mvdiff.methods.parts import MissingPart, Parts
from mvdiff.methods.repaint import RePaint, RePaintSteps
from mvdiff.settings import Sampling
from mvdiff.tasks.depth import DepthTask
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.depth_pipelines import make_depth_pipeline, walls

SAMPLING = Sampling(num_inference_steps=4, guidance_scale=2.0)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_depth_pipeline(tmp_path_factory.mktemp("repaint"))


def frames(*counts, **changes) -> MultiViewBatch:
    views = walls(*counts)
    cameras = {name: views[name] for name in ("K", "R", "t", "depths", "view_valid")}
    batch = MultiViewBatch.from_cameras(height=HEIGHT, width=WIDTH, **cameras)
    texts = [[f"a red ball {view}" for view in range(batch.num_views)] for _ in counts]
    return replace(batch, prompts=texts, sample_id=[f"wall {i}" for i in range(len(counts))], **changes)


def repaint(pipeline, **settings) -> RePaint:
    return RePaint(pipeline, **({"jump_length": 2, "jump_n_sample": 2} | settings))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_steps_without_anything_kept_and_without_jumps_are_ddim(kind):
    zero_snr = kind == "v_prediction"
    settings = BETAS | {"prediction_type": kind, "rescale_betas_zero_snr": zero_snr}
    ddim = DDIMScheduler(**settings, timestep_spacing="trailing", set_alpha_to_one=True)
    noise = torch.randn(2, 1, 4, 3, 5, generator=keyed_generator("test"))
    steps = RePaintSteps(ddim, torch.zeros_like(noise), torch.zeros(2, 1, 1, 3, 5), 0.0, 10, 1)

    def predict(latents, timesteps):
        return torch.sin(latents) * (0.5 + timesteps[0] / 2000)

    assert_close(denoise(predict, steps, noise, 10), denoise(predict, ddim, noise, 10), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("num_steps", [4, 20, 1000])
def test_a_jump_adds_the_noise_of_its_own_timesteps(num_steps):
    """After a jump, the latents must have the noise level at which the next step expects them."""
    scheduler = DDIMScheduler(**BETAS)
    one = torch.ones(1, 1, 1, 1, 1)
    steps = RePaintSteps(scheduler, one, 0 * one, 0.0, 2, 3)
    steps.set_timesteps(num_steps)
    timesteps, span = steps.timesteps.tolist(), 1000 // num_steps
    jumps = [index for index, undone in enumerate(steps._undone) if undone]
    assert len(jumps) == 2 * len(range(0, num_steps - 2, 2))
    for index in (jumps[0], jumps[-1]):
        level = timesteps[index] - span  # of the latents after the step; -1: clean
        for undone in steps._undone[index]:
            assert undone == level + 1, "betas[undone : undone + span] are those that follow the level"
            level += span
        assert timesteps[index + 1] == level


def test_what_is_kept_ends_as_it_is():
    scheduler = DDIMScheduler(**BETAS)
    latents = torch.randn(1, 1, 4, 2, 4, generator=keyed_generator("latents"))
    kept = torch.zeros(1, 1, 1, 2, 4)
    kept[..., :2] = 1
    steps = RePaintSteps(scheduler, latents, kept, 0.0, 2, 2)
    noise = torch.randn(latents.shape, generator=keyed_generator("noise"))
    done = denoise(lambda x, t: x, steps, noise, 5, generators=[keyed_generator("steps")])
    assert_close(done[..., :2], latents[..., :2])
    assert not torch.allclose(done[..., 2:], latents[..., 2:], atol=0.1)


def test_a_batch_does_not_change_its_samples(pipeline):
    both, method = frames(3, 2), repaint(pipeline)
    images = method.generate(both, SAMPLING, 3)
    for row in (0, 1):
        alone = method.generate(both.rows([row]), SAMPLING, 3)
        assert_close(alone[0], images[row], atol=1e-3, rtol=0)
    assert not torch.allclose(method.generate(both, SAMPLING, 4), images, atol=0.05)
    assert not images[1, 2].any(), "padding is not generated"
    assert type(pipeline.scheduler) is DDIMScheduler, "the pipeline's scheduler is restored"


def test_without_depth_it_is_the_base_view_by_view(pipeline):
    batch = frames(3)
    batch.depths = torch.zeros_like(batch.depths)
    expected = Independent(None, pipeline).generate(batch, SAMPLING, 3)
    assert_close(repaint(pipeline).generate(batch, SAMPLING, 3), expected, atol=1e-3, rtol=0)


def test_one_frame_is_the_base_alone(pipeline):
    expected = Independent(None, pipeline).generate(frames(1), SAMPLING, 3)
    assert_close(repaint(pipeline).generate(frames(1), SAMPLING, 3), expected, atol=1e-3, rtol=0)


def test_known_frames_stay_and_are_warped_into_the_others(pipeline):
    known = torch.zeros(1, 3, 1, HEIGHT, WIDTH)
    known[:, 2] = 1
    images = [torch.full((1, 3, 3, HEIGHT, WIDTH), value) for value in (-0.5, 0.5)]
    made = [repaint(pipeline).generate(frames(3, images=one, known=known), SAMPLING, 3) for one in images]
    assert torch.equal(made[0][:, 2], images[0][:, 2])
    assert (made[0][:, :2] - made[1][:, :2]).abs().amax((0, 2, 3, 4)).min() > 2e-4  # the tiny autoencoder sees little


def test_settings_name_the_method_and_its_jumps(pipeline):
    described = repaint(pipeline).describe(SAMPLING)
    assert (described["method"], described["jump_length"], described["jump_n_sample"]) == ("repaint", 2, 2)
    assert described["caa"] is False
    default = RePaint(pipeline)
    assert (default.jump_length, default.jump_n_sample) == (10, 10)  # the paper's and diffusers'


def test_mistakes_are_named(pipeline):
    with pytest.raises(ValueError, match=r"jump_n_sample .*; got 0"):
        RePaint(pipeline, jump_n_sample=0)
    with pytest.raises(MissingPart, match=r"--base .*repaint.*depth base"):
        RePaint.open(Parts())
    with pytest.raises(ValueError, match=r"4 \+ 1 input channels.*got 4"):
        RePaint.open(Parts(base="mvdiff://toy-base"))


def test_frames_of_a_toy_room_agree_better_than_independent_ones(tmp_path):
    scene = open_recording(tmp_path / write_walk(tmp_path, seed=3, index=0, size=64, num_frames=40, arc_deg=120))
    sequence = key_sequence(scene, 48, 64)
    rows = [sequence.frame(position) for position in range(3)]
    names = ("K", "R", "t", "depths")
    views = {name: torch.stack([getattr(row, name) for row in rows])[None].float() for name in names}
    batch = MultiViewBatch.from_cameras(height=48, width=64, **views)
    batch.prompts = [[sequence.prompt(position) for position in range(3)]]
    base = Independent.open(Parts(base="mvdiff://toy-depth-base"), DepthTask())
    base.pipeline.set_progress_bar_config(disable=True)
    sampling = Sampling(num_inference_steps=8, guidance_scale=1.0)
    methods = (base, RePaint(base.pipeline, jump_n_sample=1))
    scores = [DepthTask().overlap_psnr(method.generate(batch, sampling, 0)[0], batch, 0) for method in methods]
    assert scores[1] > scores[0] + 2
