"""Generate the held-out key frames by every method, and write the real ones beside them."""

from __future__ import annotations

import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.data.frames import FrameDataset
from mvdiff.data.scannet_datamodule import ScanNetDataModule
from mvdiff.eval.sources import DataSource
from mvdiff.models.autoencoder import decode_latents, encode_images
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.frame_folders import frame_record, generate_frame_samples
from mvdiff.quickstart.compared import ROUND_TRIP, TRUTH, call_of, samples_of, sampling
from mvdiff.quickstart.depth.settings import HEIGHT, WIDTH, DepthSettings
from mvdiff.samples import sample_folder, to_uint8, write_sample


def data_module(settings: DepthSettings, num_views: int | None = None) -> ScanNetDataModule:
    """Return the toy walks as sequences of key frames, of `num_views` (by default the settings') each."""
    return ScanNetDataModule(
        settings.data_root,
        HEIGHT,
        WIDTH,
        num_views=num_views or settings.num_views,
        batch_size=settings.batch_size,
        num_val=0,
    )


def held_out(settings: DepthSettings) -> FrameDataset:
    """Return the first key frames of every held-out room, equally many of each: as many as the one with fewest has.

    Raises:
        ValueError: A room has fewer than 3.
    """
    fewest = min(len(scene.key_frames) for scene in data_module(settings).scenes("test"))
    if fewest < 3:
        raise ValueError(
            f"every held-out room must have 3 key frames; got one with {fewest}. Raise arc_deg, so that walks see more."
        )
    return _first_windows(data_module(settings, min(settings.num_views, fewest)).test_dataset())


def reference(settings: DepthSettings) -> DataSource:
    """Return the first key frames of every training room, to measure distances to."""
    data = data_module(settings)
    _first_windows(data.eval_dataset("train"))
    return DataSource(data, "train", str(settings.data_root))


def _first_windows(dataset: FrameDataset) -> FrameDataset:
    """Keep of each room the sample that begins with its first key frame; return the data set itself."""
    dataset.indices = [index for index, slot in enumerate(dataset.slots) if slot.start == 0]
    return dataset


def batches(settings: DepthSettings) -> list[MultiViewBatch]:
    """Return the held-out key frames in batches."""
    dataset = held_out(settings)
    starts = range(0, len(dataset), settings.batch_size)
    return [MultiViewBatch.collate([dataset[start + i] for i in range(settings.batch_size)]) for start in starts]


def generate(settings: DepthSettings, pipeline: MVDiffusionDepthPipeline, method: str) -> None:
    """Generate the held-out key frames by one of the four generating methods, same seeds for all."""
    how = {"seed": settings.seed, "overwrite": True, **sampling(settings), **call_of(settings, method)}
    pipeline.set_progress_bar_config(disable=True)
    for batch in batches(settings):
        generate_frame_samples(pipeline, batch, samples_of(settings, method), **how)


def write_references(settings: DepthSettings, pipeline: MVDiffusionDepthPipeline) -> None:
    """Write the held-out key frames themselves, and as the autoencoder gives them back."""
    for batch in batches(settings):
        for i, images in enumerate(batch.images):
            with torch.no_grad():
                decoded = decode_latents(pipeline.vae, encode_images(pipeline.vae, images))
            record = frame_record(batch, i)
            for method, views in ((TRUTH, images), (ROUND_TRIP, decoded)):
                folder = sample_folder(samples_of(settings, method), record.sample_id)
                pixels = to_uint8(views).permute(0, 2, 3, 1)
                write_sample(folder, record, pixels, overwrite=True, depths=batch.depths[i])
