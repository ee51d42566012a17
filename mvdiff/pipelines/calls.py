"""Shared code of the pipelines' `__call__`: batches, settings, seeds and output types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.sampling import StepCallback
from mvdiff.samples import to_uint8
from mvdiff.settings import Controls, Sampling

OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")


def rig_batch(
    rig: Rig, prompts: list[list[str]], sample_ids: Sequence[str] | None = None, **fields: Any
) -> MultiViewBatch:
    """Make a batch of B samples with the V views of a rig.

    Args:
        rig: Rig of V views.
        prompts: B lists of V prompts.
        sample_ids: See `named_samples`.
        **fields: Other fields of the batch, such as `images` and `known`; images are zeros by default.
    """
    K, R = (camera.expand(len(prompts), *camera.shape) for camera in rig.cameras())
    cameras = MultiViewBatch.from_cameras(K, R, rig.height, rig.width)
    return replace(cameras, prompts=prompts, sample_id=named_samples(sample_ids, len(prompts)), **fields)


def named_samples(sample_ids: Sequence[str] | None, count: int) -> list[str]:
    """Return one name per sample, by default "0", "1", ...; raise ValueError if the number of names is not `count`."""
    if sample_ids is None:
        return [str(i) for i in range(count)]
    if len(sample_ids) != count:
        raise ValueError(f"sample_ids must be one per sample ({count}); got {len(sample_ids)}.")
    return [str(sample_id) for sample_id in sample_ids]


def call_settings(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Convert the arguments of a face's call to arguments of `SamplingPipeline.generate`.

    Args:
        arguments: `locals()` of the call, which has fields of `Sampling` and `Controls` by name; others keep their
            defaults.
        batch_size: Number of samples.

    Raises:
        ValueError: `output_type` is unknown, or the seeds do not fit, see `drawn_seeds`.
    """
    if arguments["output_type"] not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}; got {arguments['output_type']!r}.")
    sampling, controls = (
        kind(**{field.name: arguments[field.name] for field in fields(kind) if field.name in arguments})
        for kind in (Sampling, Controls)
    )
    return {
        "sampling": sampling,
        "controls": controls,
        "seed": drawn_seeds(arguments["seed"], arguments["generator"], batch_size),
        "latents": arguments["latents"],
        "prompt_prefix": arguments["prompt_prefix"],
        "callback": StepCallback(arguments["callback_on_step_end"], arguments["callback_on_step_end_tensor_inputs"]),
        "decode": arguments["output_type"] != "latent",
    }


def check_range(name: str, images: Tensor, where: str = "") -> None:
    """Raise ValueError if images have values outside [-1, 1] or NaNs.

    Args:
        name: Name of the argument, for the error message.
        images: Images of any shape.
        where: Text appended to the values in the error message.
    """
    low, high = images.aminmax()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"{name} must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]{where}. Rescale the images and remove NaNs."
        )


def drawn_seeds(seed: int | None, generator: Any, count: int) -> list[int]:
    """Return one seed per sample: `seed` for all, or seeds drawn from generators.

    Args:
        seed: Seed of all samples; None: draw seeds.
        generator: One generator for all samples, or one each; None: torch's global generator.
        count: Number of samples.

    Raises:
        ValueError: `seed` and `generator` are both set, or there are neither one nor `count` generators.
    """
    if seed is not None and generator is not None:
        raise ValueError("seed and generator exclude each other; got both. Pass one of them.")
    if seed is not None:
        return [int(seed)] * count
    generators = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, count):
        raise ValueError(f"generator must be a single generator, or {count}, one per sample; got {len(generators)}.")
    drawn = []
    for one in generators:
        device = "cpu" if one is None else one.device
        drawn.append(int(torch.randint(2**63 - 1, (), generator=one, device=device)))
    return drawn * (count // len(drawn))


def as_output_type(images: Tensor, output_type: str) -> Any:
    """Convert images [..., 3, H, W] in [-1, 1] to an output type, see `MVDiffusionPanoramaOutput`."""
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.movedim(-3, -1)
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    pixels = to_uint8(channels_last)
    return pixels if output_type == "uint8" else _as_pil(pixels)


def _as_pil(pixels: Tensor) -> Any:
    if pixels.ndim > 3:
        return [_as_pil(one) for one in pixels]
    return Image.fromarray(pixels.contiguous().numpy())
