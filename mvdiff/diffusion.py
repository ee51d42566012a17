"""The diffusion process as plain functions: keyed noise, predictions, and the loss. `mvdiff.denoising` samples.

A model is a function `predict(noisy_latents, timesteps) -> prediction` with latents and prediction [B, V, C, h, w] and
timesteps [B] int64, one per sample and shared by its views. A scheduler is any diffusers scheduler; training reads only
its `alphas_cumprod` [T] and `config.prediction_type`. With one of flow matching, see `mvdiff.flow`, timesteps are
floats. Noise and timesteps depend only on keys (seed, epoch, sample[, view]), not on the position in a batch, and are
drawn on the CPU; noise is float32.

Symbols: x0 clean latents, x_t noisy latents, eps noise, abar_t = alphas_cumprod[t], SNR_t = abar_t / (1 - abar_t).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from mvdiff.flow import clean_from_flow, flow_from_clean, flow_noisy, is_flow
from mvdiff.keyed import keyed_generator, keyed_int

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def view_noise(*keys: int | str, num_views: int, shape: Sequence[int]) -> Tensor:
    """Draw noise for views 0 to `num_views` - 1, see `frame_noise`; adding views does not change earlier ones.

    Example:
        >>> one, two = (view_noise(0, "kitchen", num_views=v, shape=(4, 2, 2)) for v in (1, 2))
        >>> bool((one[0] == two[0]).all())
        True
    """
    return frame_noise(*keys, frames=range(num_views), shape=shape)


def frame_noise(*keys: int | str, frames: Iterable[int | str], shape: Sequence[int]) -> Tensor:
    """Draw Gaussian noise for the frames of one sample.

    The noise of a frame depends only on the keys and its name, not on the other frames.

    Args:
        *keys: (seed, sample id) in sampling, (seed, epoch, sample index) in training.
        frames: V names.
        shape: Shape [C, h, w] of one frame's latents.

    Returns:
        [V, C, h, w] float32 on the CPU, standard normal.

    Example:
        >>> one, two = (frame_noise(0, "kitchen", frames=f, shape=(4, 2, 2)) for f in ([20, 40], [40]))
        >>> bool((one[1] == two[0]).all())
        True
    """
    draws = [torch.randn(tuple(shape), generator=keyed_generator("noise", *keys, frame)) for frame in frames]
    return torch.stack(draws)


def training_noise(seed: int, epoch: int, sample_index: Iterable[int], num_views: int, shape: Sequence[int]) -> Tensor:
    """Draw noise for a training batch, independent for every (epoch, sample, view).

    Args:
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        sample_index: [B] indices in the data set.
        num_views: Number of views V.
        shape: Shape [C, h, w] of one view's latents.

    Returns:
        [B, V, C, h, w] float32 on the CPU, standard normal.
    """
    return torch.stack(
        [view_noise(seed, epoch, int(index), num_views=num_views, shape=shape) for index in sample_index]
    )


def sample_timesteps(num_train_timesteps: int, seed: int, epoch: int, sample_index: Iterable[int]) -> Tensor:
    """Draw one training timestep per sample, uniform over [0, num_train_timesteps); other arguments: `training_noise`.

    Returns:
        [B] int64 on the CPU.
    """
    draws = [keyed_int("timestep", seed, epoch, int(index)) % num_train_timesteps for index in sample_index]
    return torch.tensor(draws, dtype=torch.int64)


def add_noise(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return noisy latents x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).

    Args:
        scheduler: Scheduler of the training.
        latents: [B, ...] x0.
        noise: [B, ...] eps.
        timesteps: [B] int64.

    Returns:
        [B, ...] float32.
    """
    if is_flow(scheduler):
        return flow_noisy(scheduler, latents, noise, timesteps)
    abar = _per_sample(scheduler.alphas_cumprod, timesteps, latents)
    return abar.sqrt() * latents.float() + (1 - abar).sqrt() * noise.float()


def training_target(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the regression target [B, ...], float32, for the scheduler's `prediction_type`; arguments: `add_noise`.

    "epsilon" is eps, "sample" is x0, and "v_prediction" is v = sqrt(abar_t) eps - sqrt(1 - abar_t) x0 (Salimans and Ho
    2022, appendix D). For flow matching it is eps - x0.

    Raises:
        ValueError: `prediction_type` is none of these.
    """
    if is_flow(scheduler):
        return noise.float() - latents.float()
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise.float()
    if kind == "sample":
        return latents.float()
    if kind == "v_prediction":
        abar = _per_sample(scheduler.alphas_cumprod, timesteps, latents)
        return abar.sqrt() * noise.float() - (1 - abar).sqrt() * latents.float()
    raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}; got {kind!r}.")


def clean_from_prediction(scheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean latents x0 that a prediction implies (Tweedie's formula): the inverse of `training_target`.

    Args:
        scheduler: Scheduler of the model, with `alphas_cumprod` and a `prediction_type`.
        prediction: [B, ...] eps, v or x0.
        noisy: [B, ...] x_t.
        timesteps: [B]; fractional ones are rounded.

    Returns:
        [B, ...] float32.
    """
    if is_flow(scheduler):
        return clean_from_flow(scheduler, prediction, noisy, timesteps)
    kind, abar = scheduler.config.prediction_type, _per_sample(scheduler.alphas_cumprod, _whole(timesteps), noisy)
    if kind == "sample":
        return prediction.float()
    if kind == "v_prediction":
        return abar.sqrt() * noisy - (1 - abar).sqrt() * prediction
    return (noisy - (1 - abar).sqrt() * prediction) / abar.sqrt()


def prediction_from_clean(scheduler, clean: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the prediction that implies clean latents: the inverse of `clean_from_prediction`, with its arguments."""
    if is_flow(scheduler):
        return flow_from_clean(scheduler, clean, noisy, timesteps)
    kind, abar = scheduler.config.prediction_type, _per_sample(scheduler.alphas_cumprod, _whole(timesteps), noisy)
    if kind == "sample":
        return clean.float()
    if kind == "v_prediction":
        return (abar.sqrt() * noisy - clean) / (1 - abar).sqrt()
    return (noisy - abar.sqrt() * clean) / (1 - abar).sqrt()


def min_snr_weight(scheduler, timesteps: Tensor, snr_gamma: float) -> Tensor:
    """Return min-SNR loss weights, min(SNR_t, gamma) in x0 space, for the scheduler's target (Hang et al. 2023).

    A squared error in eps, v or x0 is weighted by min(SNR, gamma) divided by SNR, SNR + 1 or 1. For v and x0 the weight
    goes to 0 with the SNR, so a zero-terminal-SNR schedule does not train the last timestep, where sampling starts.

    Args:
        scheduler: Scheduler of the training.
        timesteps: [B] int64.
        snr_gamma: Gamma, above 0; 5 in the cited paper.

    Returns:
        [B] float32, finite even at zero terminal SNR.

    Raises:
        ValueError: The scheduler is one of flow matching.
    """
    if is_flow(scheduler):
        raise ValueError(f"snr_gamma must be null for a base of flow matching; got {snr_gamma}. Set flow.weighting.")
    abar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].double()
    # min(SNR, gamma) = min(abar, gamma (1 - abar)) / (1 - abar) and SNR + 1 = 1 / (1 - abar): never divide by the SNR.
    clipped = torch.minimum(abar, snr_gamma * (1 - abar))
    divisor = {"epsilon": abar, "v_prediction": torch.ones_like(abar), "sample": 1 - abar}
    kind = scheduler.config.prediction_type
    weight = torch.where(abar > 0, clipped / divisor[kind], 1.0 if kind == "epsilon" else 0.0)
    return weight.float()


def noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    snr_gamma: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute the noise-prediction loss of independent views, latents [B, C, h, w]; see `multiview_noise_loss`."""
    squared = _squared_error(predict, scheduler, latents, noise, timesteps)
    return _reduced(squared.flatten(1).mean(1), scheduler, timesteps, snr_gamma, reduction)


def multiview_noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    view_valid: Tensor | None = None,
    snr_gamma: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute the paper's multi-view noise-prediction loss: the MSE over all valid views.

    The loss averages views within a sample, then samples within the batch, so it does not depend on how samples are
    split into batches or ranks of equal size.

    Args:
        predict: (noisy latents [B, V, C, h, w] float32, timesteps [B]) -> prediction [B, V, C, h, w].
        scheduler: Scheduler of the training.
        latents: [B, V, C, h, w] x0.
        noise: [B, V, C, h, w] eps, independent for every view.
        timesteps: [B] int64, one per sample.
        view_valid: [B, V] bool, False for padding; None: all valid.
        snr_gamma: Gamma of `min_snr_weight`; None: the paper's plain MSE.
        reduction: "mean", or "none" for one loss per sample.

    Returns:
        A float32 scalar, or [B] float32 for "none".

    Raises:
        ValueError: A sample has no valid view, or `reduction` is unknown.
    """
    squared = _squared_error(predict, scheduler, latents, noise, timesteps)
    per_sample = mean_over_views(squared.flatten(2).mean(2), view_valid)
    return _reduced(per_sample, scheduler, timesteps, snr_gamma, reduction)


def mean_over_views(per_view: Tensor, view_valid: Tensor | None = None) -> Tensor:
    """Average values [B, V] over the valid views of each sample, to [B].

    Raises:
        ValueError: A sample has no valid view.
    """
    if view_valid is None:
        return per_view.mean(1)
    count = view_valid.sum(1)
    if not bool((count > 0).all()):
        raise ValueError(f"view_valid must mark at least one view of each sample; got {count.tolist()} valid views.")
    return torch.where(view_valid, per_view, 0.0).sum(1) / count


def _per_sample(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Return abar_t [B, 1, ...], broadcastable over `like`."""
    values = alphas_cumprod.to(device=like.device, dtype=torch.float32)[timesteps.to(like.device)]
    return values.view(-1, *[1] * (like.ndim - 1))


def _whole(timesteps: Tensor) -> Tensor:
    return timesteps.float().round().long()


def _squared_error(predict, scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    noisy = add_noise(scheduler, latents, noise, timesteps)
    target = training_target(scheduler, latents, noise, timesteps)
    return (predict(noisy, timesteps).float() - target).square()


def _reduced(per_sample: Tensor, scheduler, timesteps: Tensor, snr_gamma: float | None, reduction: str) -> Tensor:
    if snr_gamma is not None:
        per_sample = per_sample * min_snr_weight(scheduler, timesteps, snr_gamma).to(per_sample.device)
    if reduction == "none":
        return per_sample
    if reduction == "mean":
        return per_sample.mean()
    raise ValueError(f"reduction must be 'mean' or 'none'; got {reduction!r}.")
