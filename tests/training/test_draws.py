"""Timesteps, offset noise and the noise schedule of the loss, against diffusers and against their distributions."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.diffusion import sample_timesteps, training_noise
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import FlowSettings, LossSettings
from mvdiff.training.draws import draw_noise, draw_timesteps, zero_terminal_snr
from mvdiff.training.multi_view import MultiViewModule
from tests.tiny import tiny_base
from tests.training.test_multi_view import batch_of, make

PAPER = LossSettings()
MANY = range(4000)


def test_the_defaults_draw_what_they_always_drew():
    assert torch.equal(draw_timesteps(PAPER, 1000, 3, 2, range(50)), sample_timesteps(1000, 3, 2, range(50)))
    assert torch.equal(draw_noise(PAPER, 3, 2, [5, 1], 3, (4, 2, 2)), training_noise(3, 2, [5, 1], 3, (4, 2, 2)))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6)])
def test_logit_normal_timesteps_have_a_normal_logit(mean, std):
    loss = LossSettings(timestep_sampling="logit_normal", logit_mean=mean, logit_std=std)
    fractions = (draw_timesteps(loss, 1000, 0, 0, MANY).double() + 0.5) / 1000
    logits = (fractions / (1 - fractions)).log()
    assert logits.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(len(MANY)))
    assert logits.std().item() == pytest.approx(std, rel=0.05)


def test_mode_timesteps_follow_their_density():
    """Its quantile function is f(u) = 1 - u - s (cos^2(pi u / 2) - 1 + u), decreasing (Esser et al. 2024, eq. 20)."""
    drawn = draw_timesteps(LossSettings(timestep_sampling="mode", mode_scale=0.8), 1000, 0, 0, MANY).double() / 1000
    u = 1 - torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    quantiles = 1 - u - 0.8 * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    torch.testing.assert_close(torch.quantile(drawn, 1 - u), quantiles, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "settings", [{"timestep_sampling": "logit_normal", "logit_std": 30.0}, {"timestep_sampling": "mode"}]
)
def test_timesteps_are_keyed_by_sample_and_stay_in_range(settings):
    loss = LossSettings(**settings)
    together = draw_timesteps(loss, 1000, 0, 1, MANY)
    assert together.dtype == torch.int64
    assert together.min() >= 0
    assert together.max() <= 999
    assert together[7] == draw_timesteps(loss, 1000, 0, 1, [7])[0]
    assert not torch.equal(together, draw_timesteps(loss, 1000, 0, 2, MANY))


def test_offset_noise_adds_one_number_to_each_channel_of_each_view():
    loss = LossSettings(offset_noise=0.5)
    added = draw_noise(loss, 0, 1, MANY, 2, (3, 4, 4)) - training_noise(0, 1, MANY, 2, (3, 4, 4))
    assert (added.amax((-2, -1)) - added.amin((-2, -1))).max() < 1e-5
    offsets = added.mean((-2, -1)).flatten()
    assert offsets.mean().item() == pytest.approx(0.0, abs=0.02)
    assert offsets.std().item() == pytest.approx(0.5, rel=0.03)
    alone, beside = (draw_noise(loss, 0, 1, indices, 2, (3, 4, 4)) for indices in ([9], [7, 9]))
    assert torch.equal(alone[0], beside[1])


def test_zero_terminal_snr_is_that_of_diffusers():
    scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", clip_sample=False)
    rescaled = zero_terminal_snr(scheduler)
    torch.testing.assert_close(rescaled.betas, rescale_zero_terminal_snr(scheduler.betas))
    assert rescaled.alphas_cumprod[-1] == 0 < scheduler.alphas_cumprod[-1]
    assert rescaled.config.timestep_spacing == "trailing"
    assert rescaled.config.prediction_type == "v_prediction"
    rescaled.set_timesteps(4)
    assert rescaled.timesteps[0] == 999


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"timestep_sampling": "normal"}, "timestep_sampling must be one of uniform, logit_normal, mode; got 'normal'"),
        ({"logit_std": 0.0}, "logit_std must be above 0; got 0.0"),
        ({"logit_mean": 1.0}, "logit_mean must be left out where loss.timestep_sampling is uniform; got 1.0"),
        ({"timestep_sampling": "logit_normal", "mode_scale": 1.0}, "mode_scale must be left out where"),
        ({"mode_scale": 2.0}, "mode_scale must be from -1 to 1.75; got 2.0"),
        ({"offset_noise": -0.1}, "offset_noise must be at least 0; got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        LossSettings(**settings)


def test_a_base_that_predicts_noise_cannot_have_zero_snr(tiny_folder):
    with pytest.raises(ValueError, match="zero_terminal_snr must be false for a base that predicts epsilon"):
        make(tiny_folder, zero_terminal_snr=True)


@pytest.fixture(scope="module")
def v_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    tiny_base(folder / "base", prediction_type="v_prediction")
    return folder


def test_training_and_sampling_share_the_rescaled_schedule(v_folder, tiny_folder):
    """The loss at the last timestep asks for -x0, and the pipeline's and the model folder's schedule is the same."""
    module = make(v_folder, zero_terminal_snr=True)
    data = EquirectangularDataModule(
        tiny_folder / "data", rig=RingRig(num_views=3, fov_deg=150.0, height=16, width=16), num_val=2
    )
    batch, seen = batch_of(data, (0, 0)), {}
    always_last = LossSettings(timestep_sampling="logit_normal", logit_mean=100.0)

    def zeros(sample, timestep, *rest, **context):
        seen["timestep"], seen["sample"] = timestep, sample
        return torch.zeros_like(sample)

    module.unet.forward = zeros
    loss = module.noise_loss(batch, batch.prompts, loss=always_last)
    latents = module.inputs.latents(batch)
    torch.testing.assert_close(loss, latents.square().mean())
    assert seen["timestep"].tolist() == [999]
    torch.testing.assert_close(seen["sample"], draw_noise(PAPER, 0, 0, [0], 3, latents.shape[2:]))
    assert module.backbone.scheduler.config.rescale_betas_zero_snr


def test_settings_of_flow_matching_are_refused_for_other_bases(tiny_folder):
    module = MultiViewModule(base=str(tiny_folder / "base"), flow=FlowSettings(shift=3.0))
    with pytest.raises(ValueError, match=r"model.flow must be left out for .*/base, which is no base of flow matching"):
        module.configure_model()


def test_validation_is_uniform_and_without_offset(tiny_folder):
    module = MultiViewModule(base=str(tiny_folder / "base"), loss=LossSettings(timestep_sampling="mode"))
    assert module.loss.timestep_sampling == "mode"
    assert module.noise_loss.__defaults__[-1] == PAPER
