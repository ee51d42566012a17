"""The schedulers of diffusers that fit latent diffusion models of discrete betas."""

import inspect
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
    raise ValueError(f"scheduler must be one of {', '.join(scheduler_names())}; got {name!r}.")


def scheduler_names() -> list[str]:
    """List the schedulers of the installed diffusers that fit latent diffusion models, without "Scheduler"."""
    classes = ((name, getattr(diffusers, name)) for name in dir(diffusers) if name.endswith("Scheduler"))
    return sorted(name.removesuffix("Scheduler") for name, found in classes if _usable(found))


def _usable(found: Any) -> bool:
    """Tell a sampler of discrete betas from flow matching, inversion, video and placeholder classes."""
    if not inspect.isclass(found) or found.__name__.startswith("CogVideoX") or "Inverse" in found.__name__:
        return False
    return takes(found, "beta_start") and takes(found, "prediction_type")


def takes(found: type, setting: str) -> bool:
    """Tell whether a scheduler's class has a setting."""
    return setting in inspect.signature(found.__init__).parameters
