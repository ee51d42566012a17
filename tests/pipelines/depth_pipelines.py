"""Tiny real depth pipelines and frames along painted walls."""

import torch

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.tasks.depth import DepthTask
from tests.models.test_depth_geometry import HEIGHT, WIDTH, padded, wall
from tests.pipelines.conftest import trained_like
from tests.training.tiny_depth import tiny_depth_base

FIRST_AND_LAST = [0, -1]


def make_depth_pipeline(folder, image_condition: bool = True) -> MVDiffusionDepthPipeline:
    """Write a tiny depth base into `folder` and put a pipeline with a random adapter on it."""
    path = tiny_depth_base(folder)
    backbone = load_backbone(path)
    settings = DepthTask.adapter.chosen() | {"image_condition": image_condition}
    adapter = MultiViewAdapter.from_unet(backbone.unet, **settings)
    base = BaseReference(str(path), weights_hash=backbone.weights_hash())
    pipeline = MVDiffusionDepthPipeline.from_backbone(
        backbone,
        trained_like(adapter),
        height=HEIGHT,
        width=WIDTH,
        prompt_prefix="this is one view of a scene ",
        base=base,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def walls(*counts, step=0.4):
    """Frames along one wall per count, padded to the longest: the pipeline's arguments, and view_valid."""
    most = max(counts)
    samples = [padded(wall(n, step=step, slope=0.2 - 0.1 * i, seed=i), most) for i, n in enumerate(counts)]
    K, R, t, depths = (torch.cat(values) for values in zip(*samples, strict=True))
    valid = torch.arange(most) < torch.tensor(counts)[:, None]
    return {"K": K, "R": R, "t": t, "depths": depths, "view_valid": valid}


def given(batch, num_views, views=FIRST_AND_LAST, seed=0):
    """Pictures for some frames of every sample, noise in the others: `images` and `known`."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(batch, num_views, 1, HEIGHT, WIDTH)
    known[:, views] = 1
    images = torch.rand(batch, num_views, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1
    return {"images": images, "known": known}
