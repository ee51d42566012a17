"""Diffusers schedulers that fit latent diffusion models with discrete betas."""

import inspect
from typing import Any

import diffusers


def scheduler_class(name: str) -> type:
    """Return the diffusers scheduler class of a name, which may omit the suffix "Scheduler".

    Raises:
        ValueError: Diffusers has no such scheduler for models that predict eps, v or x0; the message lists the choices.

    Example:
        >>> scheduler_class("DDIM").__name__
        'DDIMScheduler'
    """
    for candidate in (name, f"{name}Scheduler"):
        scheduler = getattr(diffusers, candidate, None) if candidate.endswith("Scheduler") else None
        if scheduler is not None and _usable(scheduler):
            return scheduler
    raise ValueError(f"scheduler must be one of {', '.join(scheduler_names())}; got {name!r}.")


def scheduler_names() -> list[str]:
    """List the usable schedulers of the installed diffusers, without the suffix "Scheduler"."""
    classes = ((name, getattr(diffusers, name)) for name in dir(diffusers) if name.endswith("Scheduler"))
    return sorted(name.removesuffix("Scheduler") for name, scheduler in classes if _usable(scheduler))


def _usable(scheduler: Any) -> bool:
    """Return False for classes of flow matching, inversion and video, and for placeholders of missing libraries."""
    if not inspect.isclass(scheduler) or scheduler.__name__.startswith("CogVideoX") or "Inverse" in scheduler.__name__:
        return False
    return takes(scheduler, "beta_start") and takes(scheduler, "prediction_type")


def takes(scheduler: type, setting: str) -> bool:
    """Return True if the constructor of a scheduler class has the argument `setting`."""
    return setting in inspect.signature(scheduler.__init__).parameters
