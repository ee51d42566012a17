"""Cut views from decoded panoramas: in a loader process, or later, on the device of the training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.panorama import perspective_from_equirectangular, perspective_from_skybox
from mvdiff.samples import from_uint8


def views_of_picture(picture: Tensor, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
    """Cut views from a panorama.

    Args:
        picture: uint8 [3, H, 2 H], equirectangular, or [6, 3, S, S], faces in skybox order.
        K: [V, 3, 3] intrinsics in pixels of the views.
        R: [V, 3, 3] world-from-camera.
        height: Height of the views in pixels.
        width: Width of the views in pixels.

    Returns:
        [V, 3, height, width] float32 in [-1, 1], on the device of the picture.
    """
    cut = perspective_from_skybox if picture.ndim == 4 else perspective_from_equirectangular
    return from_uint8(cut(picture, K, R, height, width))


def with_views(batch: MultiViewBatch) -> MultiViewBatch:
    """Return a batch with the views of its `pictures` as `images`, cut on their device; another batch as it is."""
    if batch.pictures is None:
        return batch
    cuts = zip(batch.pictures, batch.K, batch.picture_R, batch.mirrored.tolist(), strict=True)
    views = [(views_of_picture(picture, K, R, *batch.images.shape[-2:]), mirrored) for picture, K, R, mirrored in cuts]
    images = torch.stack([images.flip(-1) if mirrored else images for images, mirrored in views])
    return replace(batch, images=images, pictures=None, picture_R=None)
