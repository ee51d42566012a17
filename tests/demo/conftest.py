"""The packaged toy model, opened once."""

import pytest

from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline


@pytest.fixture(scope="session")
def toy_pipeline() -> MVDiffusionPanoramaPipeline:
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained("mvdiff://toy-caa")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
