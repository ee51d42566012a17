import pytest

from mvdiff.models.schedulers import scheduler_class, scheduler_names


def test_names_with_and_without_their_ending():
    assert scheduler_class("DPMSolverMultistep") is scheduler_class("DPMSolverMultistepScheduler")
    assert {"DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "PNDM"} <= set(scheduler_names())
    assert not {"FlowMatchEulerDiscrete", "DDIMInverse", "CogVideoXDDIM"} & set(scheduler_names())


@pytest.mark.parametrize("name", ["Nope", "", "UNet2DConditionModel", "FlowMatchLCM"])
def test_unknown_names_list_the_choices(name):
    with pytest.raises(ValueError, match=r"scheduler must be one of .*DDIM, .*, FlowMatchHeunDiscrete; got"):
        scheduler_class(name)
