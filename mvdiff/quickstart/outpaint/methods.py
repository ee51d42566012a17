"""Make the held-out panoramas around what is given of them, by every method, and write the real ones beside them."""

from __future__ import annotations

from pathlib import Path

import torch

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.geometry.cameras import Rig
from mvdiff.models.autoencoder import decode_latents, encode_images
from mvdiff.pipelines.given import GivenImage, GivenViews, given_views
from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
from mvdiff.pipelines.prompts import PromptEntry
from mvdiff.pipelines.sample_folders import generate_samples, library_versions
from mvdiff.quickstart.compared import BASE, CAA, ROUND_TRIP, TRUTH, call_of, samples_of, sampling
from mvdiff.quickstart.methods import toy_rig
from mvdiff.quickstart.outpaint.settings import OutpaintSettings
from mvdiff.samples import SampleRecord, sample_folder, to_uint8, write_sample

PICTURE_METHODS = (CAA, BASE)
PICTURE_SIZE = (48, 64)
"""Rows and columns of a picture that no view shows as a whole."""


def held_out(settings: OutpaintSettings) -> PanoramaDataset:
    """Return the held-out panoramas at yaw 0, the first view given."""
    data = Matterport3DDataModule(str(settings.data_root), toy_rig(), known="first")
    return data.test_dataset()


def pictures_of(settings: OutpaintSettings, method: str) -> Path:
    """Return the folder of a method's samples around pictures that no view shows as a whole."""
    return settings.out / "pictures" / samples_of(settings, method).name


def picture(settings: OutpaintSettings, index: int) -> GivenImage:
    """Cut a picture of 4:3 out of a held-out panorama."""
    dataset = held_out(settings)
    camera = Rig([(settings.yaw_deg, settings.pitch_deg, settings.fov_deg)], *PICTURE_SIZE)
    pixels = PanoramaDataset(dataset.source, camera, indices=dataset.indices)[index]["images"][0]
    return GivenImage(pixels, settings.fov_deg, settings.yaw_deg, settings.pitch_deg, name=f"picture {index}")


def check_picture(settings: OutpaintSettings) -> None:
    """Raise ValueError where the picture's angles are no camera's, or no view sees it."""
    blank = torch.zeros(3, *PICTURE_SIZE)
    given_views([GivenImage(blank, settings.fov_deg, settings.yaw_deg, settings.pitch_deg)], toy_rig())


def generate(settings: OutpaintSettings, pipeline: MVDiffusionOutpaintPipeline, method: str) -> None:
    """Continue the first view of the held-out rooms by one of the four generating methods, same seeds for all."""
    dataset = held_out(settings)
    samples = [dataset[i] for i in range(len(dataset))]
    given = [GivenViews(sample["images"], sample["known"]) for sample in samples]
    _generate(settings, pipeline, method, samples, given, samples_of(settings, method))


def generate_around_pictures(settings: OutpaintSettings, pipeline: MVDiffusionOutpaintPipeline, method: str) -> None:
    """Continue pictures of the first held-out rooms, each warped into the views that it reaches."""
    dataset = held_out(settings)
    samples = [dataset[i] for i in range(settings.pictures)]
    given = [given_views([picture(settings, i)], toy_rig()) for i in range(settings.pictures)]
    _generate(settings, pipeline, method, samples, given, pictures_of(settings, method))


def _generate(settings, pipeline, method, samples, given, out) -> None:
    pipeline.set_progress_bar_config(disable=True)
    generate_samples(
        pipeline,
        [PromptEntry(sample["sample_id"], tuple(sample["prompts"])) for sample in samples],
        out,
        seed=settings.seed,
        batch_size=settings.batch_size,
        overwrite=True,
        given=given,
        paste_back=False,
        **sampling(settings),
        **call_of(settings, method),
    )


def write_references(settings: OutpaintSettings, pipeline: MVDiffusionOutpaintPipeline) -> None:
    """Write the held-out views themselves, and as the autoencoder gives them back, with what is given of them."""
    rig, dataset = toy_rig(), held_out(settings)
    for i in range(len(dataset)):
        sample = dataset[i]
        images = sample["images"]
        with torch.no_grad():
            decoded = decode_latents(pipeline.vae, encode_images(pipeline.vae, images))
        given = GivenViews(images, sample["known"]).rgba()
        record = SampleRecord(
            sample["sample_id"],
            sample["prompts"],
            rig.to_dict(),
            settings={"paste_back": False},
            versions=library_versions(),
        )
        for method, views in ((TRUTH, images), (ROUND_TRIP, decoded)):
            folder = sample_folder(samples_of(settings, method), sample["sample_id"])
            write_sample(folder, record, to_uint8(views).permute(0, 2, 3, 1), overwrite=True, given=given)
