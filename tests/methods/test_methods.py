"""Methods: what each makes of a batch, and what its sample folders say."""

from dataclasses import replace

import pytest
import torch

from mvdiff.methods.method import write_method
from mvdiff.methods.model import ModelMethod
from mvdiff.methods.references import AutoencoderRoundTrip, GroundTruth
from mvdiff.models.autoencoder import decode_latents, encode_images
from mvdiff.pipelines.calls import rig_batch
from mvdiff.pipelines.sample_folders import GenerationCounts
from mvdiff.samples import find_samples, read_sample, to_uint8
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.outpaint import OutpaintTask
from tests.pipelines.conftest import RING, make_pipeline

ONE_STEP = Sampling(num_inference_steps=1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("methods") / "base")


@pytest.fixture
def batch():
    images = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return rig_batch(RING, [["a ball"] * 4, ["a lamp"] * 4], ["a", "b"], images=images)


def test_a_model_is_its_pipeline_under_its_controls(pipeline, batch):
    made = {}
    for name, controls in (("model", Controls()), ("base", Controls(caa=False))):
        made[name] = ModelMethod(name, pipeline, controls).generate(batch, ONE_STEP, 4)
        assert torch.equal(made[name], pipeline.generate(batch, ONE_STEP, seed=4, controls=controls).images)
    assert not torch.equal(*made.values())


def test_references_are_the_views_and_what_the_autoencoder_leaves_of_them(pipeline, batch):
    truth = GroundTruth("truth").generate(batch, ONE_STEP, 0)
    assert torch.equal(truth, batch.images)
    with torch.no_grad():
        expected = decode_latents(pipeline.vae, encode_images(pipeline.vae, batch.images[1]))
    assert torch.equal(AutoencoderRoundTrip("round trip", pipeline).generate(batch, ONE_STEP, 0)[1], expected)


def test_samples_say_what_made_them(pipeline, batch, tmp_path):
    base = ModelMethod("base", pipeline, Controls(caa=False))
    batches = [batch.rows([0]), batch.rows([1])]
    assert write_method(base, batches, tmp_path, ONE_STEP, seed=4, rig=RING) == GenerationCounts(2, 0)
    assert write_method(base, batches, tmp_path, ONE_STEP, seed=4, rig=RING) == GenerationCounts(0, 2)
    with pytest.raises(ValueError, match=r"settings\.caa"):
        write_method(ModelMethod("model", pipeline), batches, tmp_path, ONE_STEP, seed=4, rig=RING)
    with pytest.raises(ValueError, match="seed"):
        write_method(base, batches, tmp_path, ONE_STEP, seed=5, rig=RING)
    sample = read_sample(find_samples(tmp_path)[1])
    assert (sample.record.sample_id, sample.record.seed, sample.record.settings["caa"]) == ("b", 4, False)
    expected = to_uint8(base.generate(batch, ONE_STEP, 4)[1])
    assert (sample.images_uint8().int() - expected.int()).abs().max() <= 1  # batches of other sizes round differently
    assert sample.panorama_uint8() is not None


def test_references_have_no_seed_and_keep_what_is_given(batch, tmp_path):
    known = torch.zeros(2, 4, 1, 32, 32)
    known[:, 0] = 1
    write_method(GroundTruth("truth", OutpaintTask()), [replace(batch, known=known)], tmp_path, ONE_STEP, rig=RING)
    sample = read_sample(find_samples(tmp_path)[0])
    assert (sample.record.seed, sample.record.settings["paste_back"]) == (None, False)
    assert torch.equal(sample.images_uint8(), to_uint8(batch.images[0]))
    pixels, given = sample.given()
    assert torch.equal(given, known[0])
    assert torch.equal(pixels[0], to_uint8(batch.images[0, 0]))
