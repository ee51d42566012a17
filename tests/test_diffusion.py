"""mvdiff.diffusion: targets and losses against diffusers, guidance and the loop against closed forms."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from mvdiff.denoising import denoise, guided, step_generators
from mvdiff.diffusion import (
    min_snr_weight,
    multiview_noise_loss,
    noise_loss,
    sample_timesteps,
    training_noise,
    training_target,
    view_noise,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(scheduler_class, **settings):
    if "clip_sample" in scheduler_class().config:
        settings = {"clip_sample": False, **settings}
    return scheduler_class(**BETAS, **settings)


def ideal_predictor(scheduler, x0):
    """The perfect model of a data set of one image: it knows x0, so it predicts exactly whatever is asked."""
    reference = DDPMScheduler(**BETAS, rescale_betas_zero_snr=bool(scheduler.config.get("rescale_betas_zero_snr")))

    def predict(model_input, timesteps):
        abar = reference.alphas_cumprod[timesteps.long()].view(-1, *[1] * (x0.ndim - 1)).clamp(min=2.0**-24)
        eps = (model_input - abar.sqrt() * x0) / (1 - abar).sqrt()
        kind = scheduler.config.prediction_type
        return {"epsilon": eps, "sample": x0, "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * x0}[kind]

    return predict


@pytest.mark.parametrize("settings", [{}, {"rescale_betas_zero_snr": True}])
def test_matches_diffusers_noise_and_velocity(settings):
    scheduler = make(DDPMScheduler, prediction_type="v_prediction", **settings)
    latents, noise = normal(3, 2, 4, 5, 6), normal(3, 2, 4, 5, 6, seed=1)
    timesteps = torch.tensor([0, 500, 999])
    seen = {}

    def predict(noisy, at):
        seen["noisy"], seen["timesteps"] = noisy, at
        return torch.zeros_like(noisy)

    loss = multiview_noise_loss(predict, scheduler, latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(seen["noisy"], scheduler.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(training_target(scheduler, latents, noise, timesteps), velocity)
    torch.testing.assert_close(loss, velocity.square().mean())
    assert seen["timesteps"] is timesteps


def test_targets_are_what_the_scheduler_says():
    latents, noise, timesteps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1), torch.tensor([3, 700])
    assert torch.equal(training_target(make(DDIMScheduler), latents, noise, timesteps), noise)
    assert torch.equal(
        training_target(make(DDIMScheduler, prediction_type="sample"), latents, noise, timesteps), latents
    )
    with pytest.raises(ValueError, match=r"prediction_type must be one of epsilon.*got 'flow'"):
        training_target(make(DDIMScheduler, prediction_type="flow"), latents, noise, timesteps)


def test_zero_terminal_snr_target_is_minus_the_image():
    # abar_999 = 0: x_T is pure noise, and v = sqrt(0) eps - sqrt(1) x0 = -x0.
    scheduler = make(DDIMScheduler, **ZERO_SNR)
    latents, noise = normal(1, 4, 3, 3), normal(1, 4, 3, 3, seed=1)
    torch.testing.assert_close(training_target(scheduler, latents, noise, torch.tensor([999])), -latents)


def test_loss_counts_valid_views_only_and_weighs_samples_equally():
    scheduler = make(DDIMScheduler)
    latents, noise, timesteps = normal(2, 3, 4, 5, 6), normal(2, 3, 4, 5, 6, seed=1), torch.tensor([10, 800])
    valid = torch.tensor([[True, True, True], [True, False, False]])

    def predict(noisy, at):
        assert at.shape == (2,)
        return torch.where(valid[:, :, None, None, None], 0.0, torch.nan).expand_as(noisy)

    per_sample = multiview_noise_loss(predict, scheduler, latents, noise, timesteps, valid, reduction="none")
    expected = torch.stack([noise[0].square().mean(), noise[1, 0].square().mean()])
    torch.testing.assert_close(per_sample, expected)
    whole = multiview_noise_loss(predict, scheduler, latents, noise, timesteps, valid)
    torch.testing.assert_close(whole, expected.mean())
    bad = torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(ValueError, match=r"view_valid must mark at least one view.*\[3, 0\]"):
        multiview_noise_loss(lambda x, t: x, scheduler, latents, noise, timesteps, bad)
    with pytest.raises(ValueError, match="reduction must be"):
        multiview_noise_loss(lambda x, t: x, scheduler, latents, noise, timesteps, reduction="sum")


def test_padding_views_take_no_gradient():
    scheduler = make(DDIMScheduler)
    latents, noise = normal(1, 2, 4, 3, 3), normal(1, 2, 4, 3, 3, seed=1)
    scale = torch.ones(1, 2, 1, 1, 1, requires_grad=True)
    loss = multiview_noise_loss(
        lambda x, t: scale * x, scheduler, latents, noise, torch.tensor([5]), torch.tensor([[True, False]])
    )
    loss.backward()
    assert scale.grad[0, 0].abs() > 0
    assert scale.grad[0, 1] == 0


def test_single_view_loss_is_the_multi_view_loss_of_one_view():
    scheduler = make(DDIMScheduler)
    latents, noise, timesteps = normal(3, 4, 5, 6), normal(3, 4, 5, 6, seed=1), torch.tensor([1, 2, 999])
    one = noise_loss(lambda x, t: 0.5 * x, scheduler, latents, noise, timesteps)
    many = multiview_noise_loss(lambda x, t: 0.5 * x, scheduler, latents[:, None], noise[:, None], timesteps)
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_agree_in_x0_space(kind):
    # A unit error in x0 is an error of sqrt(SNR) in eps and sqrt(SNR + 1) in v: the weighted losses must agree.
    scheduler = make(DDIMScheduler, prediction_type=kind)
    timesteps = torch.tensor([0, 100, 400, 999])
    abar = scheduler.alphas_cumprod[timesteps].double()
    snr = abar / (1 - abar)
    error = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    weighted = min_snr_weight(scheduler, timesteps, 5.0) * error
    torch.testing.assert_close(weighted, snr.clamp(max=5.0), rtol=1e-5, atol=1e-6)


def test_min_snr_weight_is_finite_at_zero_terminal_snr():
    timestep = torch.tensor([999])
    for kind, weight in (("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)):
        scheduler = make(DDIMScheduler, rescale_betas_zero_snr=True, prediction_type=kind)
        assert min_snr_weight(scheduler, timestep, 5.0).item() == weight
    scheduler = make(DDIMScheduler)
    args = scheduler, normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1), torch.tensor([0, 999])
    plain = noise_loss(lambda x, t: x, *args, reduction="none")
    weighted = noise_loss(lambda x, t: x, *args, snr_gamma=5.0, reduction="none")
    torch.testing.assert_close(weighted, plain * min_snr_weight(scheduler, args[3], 5.0))


def test_noise_depends_on_keys_alone():
    batch = training_noise(7, 2, [5, 9], num_views=3, shape=(4, 2, 6))
    assert batch.shape == (2, 3, 4, 2, 6)
    assert batch.dtype == torch.float32
    assert torch.equal(training_noise(7, 2, torch.tensor([9]), num_views=3, shape=(4, 2, 6))[0], batch[1])
    assert torch.equal(view_noise(7, 2, 9, num_views=2, shape=(4, 2, 6)), batch[1, :2])
    others = [view_noise(*keys, num_views=3, shape=(4, 2, 6)) for keys in ((8, 2, 9), (7, 3, 9), (7, 2, 8))]
    different = [batch[1], *others, batch[1].roll(1, 0)]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])
    big = view_noise("moments", num_views=4, shape=(50, 50))
    assert big.mean().abs() < 0.04
    assert (big.std() - 1).abs() < 0.03


def test_timesteps_are_keyed_and_uniform():
    drawn = sample_timesteps(1000, 0, 0, range(2000))
    assert drawn.dtype == torch.int64
    assert torch.equal(sample_timesteps(1000, 0, 0, torch.tensor([17, 3])), drawn[[17, 3]])
    assert not torch.equal(sample_timesteps(1000, 0, 1, range(2000)), drawn)
    assert 0 <= drawn.min() < 5
    assert 994 < drawn.max() < 1000
    assert (drawn.double().mean() - 499.5).abs() < 4 * 288.7 / 2000**0.5


def test_guidance_extrapolates_from_the_negative_prompt():
    text, negative = torch.full((2, 3, 5, 8), 2.0), torch.full((2, 3, 5, 8), -1.0)
    calls = []

    def predict(latents, timesteps, encoder_hidden_states):
        calls.append((latents.shape[0], timesteps.tolist(), encoder_hidden_states[:, 0, 0, 0].tolist()))
        return latents + encoder_hidden_states[..., :1, :1, None]

    latents, timesteps = torch.zeros(2, 3, 4, 5, 6), torch.tensor([7, 7])
    # u + s (c - u) = -1 + 9 * 3 = 26, from one call on [negative, text].
    assert torch.equal(guided(predict, text, negative, 9.0)(latents, timesteps), torch.full_like(latents, 26.0))
    assert calls.pop() == (4, [7, 7, 7, 7], [-1.0, -1.0, 2.0, 2.0])
    for scale in (1.0, 0.0):
        assert torch.equal(guided(predict, text, negative, scale)(latents, timesteps), torch.full_like(latents, 2.0))
        assert calls.pop() == (2, [7, 7], [2.0, 2.0])


def test_matches_a_written_out_ddim_step():
    # DDIM, eta 0, epsilon: x_s = sqrt(abar_s) (x_t - sqrt(1 - abar_t) e) / sqrt(abar_t) + sqrt(1 - abar_s) e.
    scheduler = make(DDIMScheduler, set_alpha_to_one=False, steps_offset=1)
    noise = normal(2, 3, 4, 5, 6)
    x, abar = noise.double(), scheduler.alphas_cumprod.double()
    for t, s in ((751, 501), (501, 251), (251, 1), (1, 0)):
        e = torch.sin(x + t)
        x0 = (x - (1 - abar[t]).sqrt() * e) / abar[t].sqrt()
        x = abar[s].sqrt() * x0 + (1 - abar[s]).sqrt() * e
    seen = []

    def predict(latents, timesteps):
        seen.append(timesteps.tolist())
        return torch.sin(latents + timesteps.view(-1, 1, 1, 1, 1))

    result = denoise(predict, scheduler, noise, 4)
    assert seen == [[751, 751], [501, 501], [251, 251], [1, 1]]
    torch.testing.assert_close(result.double(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_model_recovers_its_image_with_any_scheduler(scheduler_class, kind):
    scheduler = make(scheduler_class, prediction_type=kind)
    x0 = 0.8 * normal(2, 2, 4, 6, 5)
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    noise = view_noise("any", num_views=4, shape=(4, 6, 5)).view(2, 2, 4, 6, 5)
    generators = step_generators([(0, "a"), (0, "b")])
    ideal, seen = ideal_predictor(scheduler, x0), []

    def predict(latents, timesteps):
        seen.append(latents)
        return ideal(latents, timesteps)

    result = denoise(predict, scheduler, noise, 20, generators=generators)
    torch.testing.assert_close(seen[0], noise, rtol=0.01, atol=0.01)  # whatever the scheduler's own scale of noise
    assert torch.equal(scheduler.timesteps, before)
    assert (result - x0).abs().max() < 0.15


@pytest.mark.parametrize(
    "scheduler_class", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_zero_terminal_snr_schedules_sample(scheduler_class):
    scheduler = make(scheduler_class, **ZERO_SNR)
    x0 = 3.0 + normal(1, 2, 4, 6, 5)  # a mean far from the noise's, which a schedule without zero SNR would leak
    seen = []

    def predict(latents, timesteps):
        seen.append(timesteps[0].item())
        return ideal_predictor(scheduler, x0)(latents, timesteps)

    result = denoise(predict, scheduler, normal(1, 2, 4, 6, 5, seed=3), 25, generators=step_generators([(0, "a")]))
    assert seen[0] == 999
    assert (result - x0).abs().max() < 0.3
    with pytest.raises(ValueError, match="prediction_type must be v_prediction or sample if rescale_betas_zero_snr"):
        denoise(predict, make(scheduler_class, rescale_betas_zero_snr=True), x0, 5)


@pytest.mark.parametrize(
    ("scheduler_class", "eta"), [(DDPMScheduler, 0.0), (EulerAncestralDiscreteScheduler, 0.0), (DDIMScheduler, 1.0)]
)
def test_stochastic_schedulers_draw_per_sample(scheduler_class, eta):
    scheduler = make(scheduler_class)
    noise = {name: view_noise(0, name, num_views=2, shape=(4, 3, 5)) for name in "abc"}

    def run(names, seed=0):
        stacked = torch.stack([noise[name] for name in names])
        generators = step_generators((seed, name) for name in names)
        return denoise(lambda x, t: 0.1 * x, scheduler, stacked, 5, generators=generators, eta=eta)

    together = run("abc")
    torch.testing.assert_close(run("b")[0], together[1])
    torch.testing.assert_close(run("ca"), together[[2, 0]])
    assert not torch.allclose(run("b", seed=1)[0], together[1])


def test_callback_sees_each_step_and_may_replace_the_latents():
    scheduler = make(DDIMScheduler)
    steps = []

    def callback(index, timestep, latents):
        steps.append((index, int(timestep)))
        return torch.zeros_like(latents) if index == 2 else None

    result = denoise(lambda x, t: x, scheduler, normal(1, 2, 4, 3, 3), 3, callback=callback)
    assert steps == [(0, 666), (1, 333), (2, 0)]
    assert torch.equal(result, torch.zeros(1, 2, 4, 3, 3))
    with pytest.raises(ValueError, match="num_inference_steps must be an integer of at least 1; got 0"):
        denoise(lambda x, t: x, scheduler, normal(1, 2, 4, 3, 3), 0)
    for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        with pytest.raises(
            ValueError, match=r"num_inference_steps must be at most 1000, the scheduler's .*; got 1001\."
        ):
            denoise(lambda x, t: x, make(kind), normal(1, 2, 4, 3, 3), 1001)


def test_half_precision_predictions_leave_the_state_in_float32():
    scheduler = make(DDIMScheduler)
    result = denoise(lambda x, t: (0.3 * x).bfloat16(), scheduler, normal(1, 2, 4, 3, 3).bfloat16(), 3)
    assert result.dtype == torch.float32
