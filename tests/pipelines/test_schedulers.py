import json

import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from mvdiff.models.schedulers import scheduler_names
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.pipelines.schedulers import scheduler_from
from tests.pipelines.conftest import make_pipeline


def test_the_models_schedule_is_kept():
    own = DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.012, prediction_type="v_prediction", steps_offset=1)
    other = scheduler_from("DPMSolverMultistep", own.config)
    assert type(other) is DPMSolverMultistepScheduler
    for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset", "timestep_spacing"):
        assert other.config[name] == own.config[name]
    plain = DDIMScheduler()  # all defaults: LCM's own betas are others
    assert scheduler_from("LCM", plain.config).alphas_cumprod.equal(plain.alphas_cumprod)
    assert scheduler_from("DDIM", other.config).alphas_cumprod.equal(own.alphas_cumprod)


def test_schedulers_that_would_change_zero_terminal_snr_betas_are_refused():
    own = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    with pytest.raises(ValueError, match=r"must support rescale_betas_zero_snr.*got 'PNDM'.*DDIM, .*EulerDiscrete"):
        scheduler_from("PNDM", own.config)
    assert scheduler_from("EulerDiscrete", own.config).config.rescale_betas_zero_snr


def test_samples_of_every_scheduler_can_be_described(tmp_path):
    """DPMSolverMultistep has a setting of minus infinity, which JSON cannot hold."""
    pipeline, described = make_pipeline(tmp_path / "base"), {}
    own = pipeline.scheduler
    for name in scheduler_names():
        pipeline.scheduler = scheduler_from(name, own.config)
        described[name] = described_settings(pipeline)
        assert json.loads(json.dumps(described[name], allow_nan=False)) == described[name]
    assert described["DPMSolverMultistep"]["scheduler_config"]["lambda_min_clipped"] == "-Infinity"
