"""Build any diffusers scheduler by name from a model's own scheduler config."""

from collections.abc import Mapping
from typing import Any

from mvdiff.flow import FLOW_SCHEDULERS
from mvdiff.models.schedulers import flow_names, scheduler_class, scheduler_names, takes


def scheduler_from(name: str, config: Mapping[str, Any]) -> Any:
    """Build a scheduler of another class from a model's scheduler config, keeping every setting that both have.

    The `from_config` of diffusers drops settings that were left at their defaults, so betas and timestep spacing would
    depend on how the config was made. Here they do not.

    Args:
        name: Scheduler class, such as "DDIM", "EulerDiscrete", "DPMSolverMultistep", "DDPM" or "UniPCMultistep".
        config: The `config` of the model's own scheduler.

    Raises:
        ValueError: The name is unknown, the scheduler is not for the model's kind (discrete betas or flow matching), or
            it does not support the model's zero-terminal-SNR betas.
    """
    scheduler = scheduler_class(name)
    flow = "shift" in config and "beta_start" not in config
    if flow != (scheduler in FLOW_SCHEDULERS):
        kind, able = ("flow matching", flow_names()) if flow else ("discrete betas", scheduler_names())
        raise ValueError(f"scheduler must be one for {kind}, as this model is; got {name!r}. Choose {', '.join(able)}.")
    if config.get("rescale_betas_zero_snr") and not takes(scheduler, "rescale_betas_zero_snr"):
        able = [other for other in scheduler_names() if takes(scheduler_class(other), "rescale_betas_zero_snr")]
        raise ValueError(
            f"scheduler must support rescale_betas_zero_snr, which this model was trained with; got {name!r}. "
            f"Choose one of {', '.join(able)}."
        )
    return scheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})
