"""Generate the held-out panoramas by every method, and write the real ones beside them."""

from __future__ import annotations

import torch

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.data.toyworld.truth import read_truth
from mvdiff.geometry.cameras import RingRig
from mvdiff.geometry.panorama import stitch
from mvdiff.models.autoencoder import decode_latents, encode_images
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.prompts import PromptEntry
from mvdiff.pipelines.sample_folders import generate_samples, library_versions
from mvdiff.quickstart.compared import ROUND_TRIP, TRUTH, call_of, samples_of, sampling
from mvdiff.quickstart.settings import Settings
from mvdiff.samples import SampleRecord, sample_folder, to_uint8, write_sample


def toy_rig(size: int = 64) -> RingRig:
    """Return the ring of eight views of the toy scale."""
    return RingRig(num_views=8, fov_deg=90.0, height=size, width=size)


def held_out(settings: Settings) -> PanoramaDataset:
    """Return the held-out panoramas at yaw 0."""
    return Matterport3DDataModule(str(settings.data_root), toy_rig()).test_dataset()


def facts(settings: Settings, sample_id: str) -> list[dict[str, str]]:
    """Return what each view of a held-out panorama shows, see `toyworld.captions.facts`."""
    truth = read_truth(settings.data_root, sample_id)
    return [truth[degree] for degree in range(0, 360, 45)]


def generate(settings: Settings, pipeline: MVDiffusionPanoramaPipeline, method: str) -> None:
    """Generate the held-out captions by one of the four generating methods, same seeds for all."""
    dataset = held_out(settings)
    samples = [dataset[i] for i in range(len(dataset))]
    entries = [PromptEntry(sample["sample_id"], sample["prompts"]) for sample in samples]
    pipeline.set_progress_bar_config(disable=True)
    generate_samples(
        pipeline,
        entries,
        samples_of(settings, method),
        seed=settings.seed,
        batch_size=settings.batch_size,
        overwrite=True,
        **sampling(settings),
        **call_of(settings, method),
    )


def write_references(settings: Settings, pipeline: MVDiffusionPanoramaPipeline) -> None:
    """Write the held-out views themselves, and as the autoencoder gives them back."""
    rig, dataset = toy_rig(), held_out(settings)
    K, R = rig.cameras()
    for i in range(len(dataset)):
        sample = dataset[i]
        images = sample["images"]
        with torch.no_grad():
            decoded = decode_latents(pipeline.vae, encode_images(pipeline.vae, images))
        for method, views in ((TRUTH, images), (ROUND_TRIP, decoded)):
            record = SampleRecord(sample["sample_id"], sample["prompts"], rig.to_dict(), versions=library_versions())
            panorama, _ = stitch(views, K, R, 2 * rig.height, 4 * rig.height)
            write_sample(
                sample_folder(samples_of(settings, method), sample["sample_id"]),
                record,
                to_uint8(views).permute(0, 2, 3, 1),
                to_uint8(panorama).permute(1, 2, 0),
                overwrite=True,
            )
