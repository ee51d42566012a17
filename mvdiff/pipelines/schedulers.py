"""Any diffusers scheduler by name, built from a model's own scheduler config."""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers


def scheduler_class(name: str) -> type:
    """Return diffusers' scheduler class of a name, with or without "Scheduler" at its end.

    Raises:
        ValueError: There is no such scheduler for models that predict eps, v or x0; the choices are listed.

    Example:
        >>> scheduler_class("DDIM").__name__
        'DDIMScheduler'
    """
    for candidate in (name, f"{name}Scheduler"):
        found = getattr(diffusers, candidate, None) if candidate.endswith("Scheduler") else None
        if found is not None and _usable(found):
            return found
    raise ValueError(f"scheduler must be one of {', '.join(scheduler_names())}; got {name!r}. Choose one of these.")


def scheduler_names() -> list[str]:
    """List the schedulers of the installed diffusers that fit latent diffusion models, without "Scheduler"."""
    classes = ((name, getattr(diffusers, name)) for name in dir(diffusers) if name.endswith("Scheduler"))
    return sorted(name.removesuffix("Scheduler") for name, found in classes if _usable(found))


def scheduler_from(name: str, config: Mapping[str, Any]) -> Any:
    """Build a scheduler of another class from a model's scheduler config, keeping every setting that both know.

    diffusers' own `from_config` drops settings that were left at their default; betas and timestep spacing would then
    depend on how the config came about. Here they never do.

    Args:
        name: Such as "DDIM", "EulerDiscrete", "DPMSolverMultistep", "DDPM", "UniPCMultistep".
        config: The `config` of the model's own scheduler.

    Raises:
        ValueError: The name is unknown, or that scheduler cannot follow the model's zero-terminal-SNR betas.
    """
    found = scheduler_class(name)
    if config.get("rescale_betas_zero_snr") and not _takes(found, "rescale_betas_zero_snr"):
        able = [other for other in scheduler_names() if _takes(scheduler_class(other), "rescale_betas_zero_snr")]
        raise ValueError(
            f"scheduler must support rescale_betas_zero_snr, which this model was trained with; got {name!r}. "
            f"Choose one of {', '.join(able)}."
        )
    return found.from_config({key: value for key, value in config.items() if not key.startswith("_")})


def _usable(found: Any) -> bool:
    """Tell a sampler of discrete betas from flow matching, inversion, video and placeholder classes."""
    if not inspect.isclass(found) or found.__name__.startswith("CogVideoX") or "Inverse" in found.__name__:
        return False
    return _takes(found, "beta_start") and _takes(found, "prediction_type")


def _takes(found: type, setting: str) -> bool:
    return setting in inspect.signature(found.__init__).parameters
