"""The packaged toy model, opened once."""

import pytest

from mvdiff.pipelines.given import given_images
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline


@pytest.fixture(scope="session")
def toy_pipeline() -> MVDiffusionPanoramaPipeline:
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained("mvdiff://toy-caa")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class PictureTaking(MVDiffusionPanoramaPipeline):
    """A panorama pipeline with the arguments of outpainting, which are noted and else left alone."""

    def __call__(self, prompt, image=None, fov_deg=90.0, yaw_deg=0.0, pitch_deg=0.0, paste_back=True, **settings):
        height, width = given_images(image)[0].pixels.shape[-2:]
        self.given = {"size": (width, height), "angles": (fov_deg, yaw_deg, pitch_deg), "paste_back": paste_back}
        return super().__call__(prompt, **settings)


@pytest.fixture(scope="session")
def picture_pipeline(toy_pipeline) -> PictureTaking:
    pipeline = PictureTaking(**toy_pipeline.components, rig=toy_pipeline.rig)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
