import json

import pytest
from diffusers import PNDMScheduler

from mvdiff.models.bases.opening import own_scheduler
from mvdiff.models.schedulers import scheduler_class, scheduler_names


def test_names_with_and_without_their_ending():
    assert scheduler_class("DPMSolverMultistep") is scheduler_class("DPMSolverMultistepScheduler")
    assert {"DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "PNDM"} <= set(scheduler_names())
    assert not {"FlowMatchEulerDiscrete", "DDIMInverse", "CogVideoXDDIM"} & set(scheduler_names())


@pytest.mark.parametrize("name", ["Nope", "", "UNet2DConditionModel", "FlowMatchLCM"])
def test_unknown_names_list_the_choices(name):
    with pytest.raises(ValueError, match=r"scheduler must be one of .*DDIM, .*, FlowMatchHeunDiscrete; got"):
        scheduler_class(name)


def scheduler_of(folder, **config):
    path = folder / "scheduler_config.json"
    path.write_text(json.dumps(config))
    return own_scheduler(path)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("shift_terminal", 0.02),
        ("stochastic_sampling", True),
        ("invert_sigmas", True),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_dynamic_shifting", True),
    ],
)
def test_settings_of_flow_matching_that_are_not_taken_are_refused(tmp_path, name, setting, value):
    config = {"_class_name": name, "use_flow_sigmas": True, "flow_shift": 3.0}
    assert scheduler_of(tmp_path, **config, **{setting: None}).config.shift == 3.0
    with pytest.raises(ValueError, match=rf"{setting} of the base's scheduler must be .* in .*scheduler_config.json"):
        scheduler_of(tmp_path, **config, **{setting: value})


def test_ddim_ends_where_pndm_does(tmp_path):
    """Both end at the first abar by default, as the schedulers of Stable Diffusion 1 and 2 do."""
    config = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "skip_prk_steps": True}
    assert scheduler_of(tmp_path, **config).final_alpha_cumprod == PNDMScheduler.from_config(config).final_alpha_cumprod
    said = scheduler_of(tmp_path, **config, set_alpha_to_one=True)
    assert said.final_alpha_cumprod == 1
