"""Flow matching against formulas written out, and against diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch.testing import assert_close

from mvdiff.denoising import denoise, with_steps
from mvdiff.diffusion import (
    add_noise,
    clean_from_prediction,
    min_snr_weight,
    multiview_noise_loss,
    prediction_from_clean,
    sample_timesteps,
    training_target,
)
from mvdiff.flow import flow_timesteps
from mvdiff.pipelines.schedulers import scheduler_from
from mvdiff.settings import FlowSettings, LossSettings
from mvdiff.training.draws import timesteps_of

EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)


def latents(seed, shape=(2, 3, 4, 2, 2)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noisy_latents_are_those_of_diffusers_and_targets_follow():
    clean, noise = latents(0), latents(1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[[100, 700]]
    noisy = add_noise(scheduler, clean, noise, timesteps)
    assert_close(noisy, scheduler.scale_noise(clean, timesteps, noise))
    target = training_target(scheduler, clean, noise, timesteps)
    assert torch.equal(target, noise - clean)
    assert_close(clean_from_prediction(scheduler, target, noisy, timesteps), clean, atol=1e-5, rtol=1e-5)
    assert_close(prediction_from_clean(scheduler, clean, noisy, timesteps), target, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_squared_error_of_the_velocity():
    clean, noise, timesteps = latents(0), latents(1), torch.tensor([250.0, 750.0])
    loss = multiview_noise_loss(lambda noisy, t: 0.5 * noisy, EULER, clean, noise, timesteps, reduction="none")
    for i, sigma in enumerate((0.25, 0.75)):
        predicted = 0.5 * ((1 - sigma) * clean[i] + sigma * noise[i])
        assert_close(loss[i], (predicted - (noise[i] - clean[i])).square().mean())


def test_timesteps_are_logit_normal_shifted_and_keyed_by_sample():
    draws = flow_timesteps(EULER, FlowSettings(), 0, 2, range(4000))
    sigma = draws / 1000
    unshifted = sigma / (3 - 2 * sigma)  # the inverse of 3 s / (1 + 2 s)
    logits = torch.logit(unshifted.double())
    assert abs(logits.mean()) < 0.06
    assert abs(logits.std() - 1) < 0.05
    assert torch.equal(flow_timesteps(EULER, FlowSettings(), 0, 2, [17, 5]), draws[[17, 5]])
    assert not torch.equal(flow_timesteps(EULER, FlowSettings(), 0, 3, [17]), draws[[17]])
    moved = flow_timesteps(EULER, FlowSettings(mean=1.0, std=0.1, shift=1.0), 0, 2, range(100)) / 1000
    assert abs(torch.logit(moved).mean() - 1) < 0.1
    flat = flow_timesteps(EULER, FlowSettings(weighting="uniform", shift=1.0), 0, 2, range(4000)) / 1000
    assert abs(flat.mean() - 0.5) < 0.02
    assert abs(flat.std() - 12**-0.5) < 0.01


def test_a_scheduler_with_betas_draws_as_before_and_flow_settings_are_checked():
    ddim = DDIMScheduler()
    drawn = timesteps_of(ddim, LossSettings(), FlowSettings(), 3, 1, [4, 9])
    assert torch.equal(drawn, sample_timesteps(1000, 3, 1, [4, 9]))
    with pytest.raises(ValueError, match=r"flow.std must be above 0; got 0"):
        FlowSettings(std=0)
    with pytest.raises(ValueError, match=r"flow.mean must be left out where flow.weighting is uniform; got 1.0"):
        FlowSettings(weighting="uniform", mean=1.0)
    with pytest.raises(ValueError, match=r"snr_gamma must be null for a base of flow matching; got 5"):
        min_snr_weight(EULER, torch.tensor([3.0]), 5.0)


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_sampling_follows_a_straight_path_to_its_end(kind):
    """With the true velocity of a single image, any number of steps ends at the image."""
    clean, noise = latents(0), latents(1)
    scheduler = kind(shift=3.0)

    def velocity(noisy, timesteps):
        assert timesteps.shape == (2,)
        return (noisy - clean) / (timesteps / 1000).view(2, 1, 1, 1, 1)

    for steps in (1, 4):
        assert_close(denoise(velocity, scheduler, noise, steps), clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [{"timesteps": [1000, 901, 250]}, {"sigmas": [1.0, 0.901, 0.25]}], ids=list)
@pytest.mark.parametrize(
    ("kind", "visited"),
    [(FlowMatchEulerDiscreteScheduler, [0, 1, 2]), (FlowMatchHeunDiscreteScheduler, [0, 1, 1, 2, 2])],
)
def test_chosen_levels_are_those_of_the_network_and_of_the_latents(kind, visited, levels):
    """A shift of 3 moves neither; along a straight path, latents show the level at which they stand."""
    scheduler, clean, noise, told = kind(shift=3.0), latents(0), latents(1), []
    steps = with_steps(scheduler, 50, **levels)
    assert steps.timesteps.tolist() == [[1000.0, 901.0, 250.0][i] for i in visited]
    assert_close(steps.sigmas, torch.tensor([*([1.0, 0.901, 0.25][i] for i in visited), 0.0]))

    def velocity(noisy, timesteps):
        told.append(timesteps[0].item())
        assert_close(noisy, (1 - told[-1] / 1000) * clean + told[-1] / 1000 * noise, atol=1e-5, rtol=1e-5)
        return noise - clean

    assert_close(denoise(velocity, scheduler, noise, 50, **levels), clean, atol=1e-5, rtol=1e-5)
    assert told == steps.timesteps.tolist()


@pytest.mark.parametrize(
    ("levels", "range_of"),
    [
        ({"timesteps": [500, 900]}, "1000"),
        ({"timesteps": [1001, 900]}, "1000"),
        ({"timesteps": [900, 900]}, "1000"),
        ({"timesteps": []}, "1000"),
        ({"sigmas": [900.0, 500.0]}, "1"),
        ({"sigmas": [1.0, 0.0]}, "1"),
    ],
    ids=str,
)
def test_levels_that_do_not_descend_are_refused(levels, range_of):
    ((name, values),) = levels.items()
    with pytest.raises(ValueError, match=rf"^{name} must descend from at most {range_of} to above 0; got") as error:
        with_steps(EULER, 50, **levels)
    assert str(values) in str(error.value)


def test_schedulers_of_the_other_kind_are_refused():
    assert isinstance(scheduler_from("FlowMatchHeunDiscrete", EULER.config), FlowMatchHeunDiscreteScheduler)
    assert scheduler_from("FlowMatchHeunDiscrete", EULER.config).config.shift == 3.0
    with pytest.raises(ValueError, match=r"one for flow matching, .*got 'DDIM'\. Choose FlowMatchEulerDiscrete, "):
        scheduler_from("DDIM", EULER.config)
    with pytest.raises(ValueError, match=r"one for discrete betas, .*got 'FlowMatchEulerDiscrete'"):
        scheduler_from("FlowMatchEulerDiscrete", DDIMScheduler().config)
