"""Read the pictures of a sample for a page: views, panorama, and depths in grey.

Legend: V views, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.panorama import stitch
from mvdiff.report.galleries import view_labels
from mvdiff.samples import Sample, from_uint8, to_uint8


@dataclass(frozen=True)
class Pictures:
    """Pictures of one sample.

    Attributes:
        views: Views, [H, W, 3] uint8 each.
        labels: Names of the views.
        prompts: One prompt per view.
        panorama: Value for `PanoramaEntry.methods`; None for frames.
        depths: Depths in grey, [H, W, 3] uint8 per view, or None.
        num_views: Number of views of the sample; `views` of a recording may be fewer.
    """

    views: list[np.ndarray]
    labels: list[str]
    prompts: list[str]
    panorama: object | None
    depths: list[np.ndarray] | None
    num_views: int


def is_recording(sample: Sample) -> bool:
    """Return True if a sample has frames with camera centres or depths, False for a panorama.

    Raises:
        ValueError: The cameras in the sample's record are invalid.
    """
    return sample.record.translations() is not None or sample.with_depths


def open_pictures(sample: Sample, max_views: int, natural: bool = False) -> Pictures:
    """Read the pictures of a sample.

    Args:
        sample: Sample to read.
        max_views: Maximum number of frames of a recording, evenly spaced; all views of a panorama are read.
        natural: Read the ground truth that upstream's layout stores next to the generated views.

    Raises:
        ValueError: An image cannot be read, or sizes do not agree.
        OSError: A file is missing.
    """
    record, total = sample.record, sample.num_views
    if is_recording(sample):
        indices = spread(total, max_views)
        part = replace(sample, view_paths=tuple(sample.view_paths[i] for i in indices))
        frames, keys = record.settings.get("frames"), set(record.settings.get("key_frames") or ())
        named = frames if isinstance(frames, list) and len(frames) == total else list(range(total))
        labels = [f"key {named[i]}" if named[i] in keys else str(named[i]) for i in indices]
        views, depths = channels_last(part.images_uint8()), part.depths()
        prompts = [record.prompts[i] for i in indices]
        return Pictures(views, labels, prompts, None, None if depths is None else depth_pictures(depths), total)
    images = sample.natural_uint8() if natural else sample.images_uint8()
    panorama = stitched(sample, images) if natural else panorama_of(sample, images)
    return Pictures(channels_last(images), direction_labels(sample), record.prompts, panorama, None, total)


def spread(count: int, at_most: int) -> list[int]:
    """Select at most `at_most` of `count` indices, evenly spaced, including the first and the last.

    >>> spread(5, 9), spread(9, 3)
    ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if count <= at_most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(at_most - 1, 1)) for i in range(at_most)})


def channels_last(images_uint8: Tensor) -> list[np.ndarray]:
    """Convert views [V, 3, H, W] uint8 to a list of V arrays [H, W, 3]."""
    return list(images_uint8.permute(0, 2, 3, 1).numpy())


def direction_labels(sample: Sample) -> list[str]:
    """Name the views of a panorama by their directions, see `view_labels`."""
    if sample.record.rig is not None:
        views = sample.record.rig["views"]
        return view_labels([yaw for yaw, _, _ in views], [pitch for _, pitch, _ in views])
    _, R, _, _ = sample.record.camera_tensors()
    x, y, z = R[:, :, 2].double().unbind(dim=-1)
    yaw, pitch = torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.atan2(-y, torch.hypot(x, z)))
    return view_labels((yaw % 360).round().tolist(), (pitch.round() + 0.0).tolist())


def panorama_of(sample: Sample, images_uint8: Tensor | None = None) -> object:
    """Return the panorama of a sample.

    Returns:
        The stored panorama [H, 2 H, 3] uint8; or, without one, the output of `stitched`.

    Raises:
        ValueError: The panorama is not twice as wide as high, or a view cannot be read.
    """
    panorama = sample.panorama_uint8()
    if panorama is None:
        return stitched(sample, sample.images_uint8() if images_uint8 is None else images_uint8)
    height, width = panorama.shape[-2:]
    if width != 2 * height:
        raise ValueError(
            f"panorama.png must be twice as wide as high; got {width} x {height} pixels, in {sample.folder}."
        )
    return panorama.permute(1, 2, 0).numpy()


def stitched(sample: Sample, images_uint8: Tensor, height: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Stitch views to a panorama with the cameras of their sample.

    Args:
        sample: Sample with the cameras.
        images_uint8: [V, 3, h, w] views; they may be resized.
        height: Height H of the panorama in pixels; default: the pixel density at the centre of a view.

    Returns:
        Panorama [H, 2 H, 3] uint8, and [H, 2 H] bool, True where a view sees it.
    """
    K, R, rows, columns = sample.record.camera_tensors()
    if (rows, columns) != tuple(images_uint8.shape[-2:]):
        K = resize_intrinsics(K, images_uint8.shape[-1] / columns, images_uint8.shape[-2] / rows)
    height = height or round(math.pi * float(K[:, 0, 0].max()))
    panorama, covered = stitch(from_uint8(images_uint8), K, R, height, 2 * height)
    return to_uint8(panorama).permute(1, 2, 0).numpy(), covered.numpy()


def depth_pictures(depths: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
    """Draw depths [V, H, W] in metres as grey images [H, W, 3] uint8 on one scale: near is bright, none is black."""
    values = np.asarray(depths)
    known = values > 0
    near = np.where(known, 1 / np.maximum(values, 1e-3), 0)
    low, high = (near[known].min(), near[known].max()) if known.any() else (0.0, 0.0)
    grey = np.where(known, 40 + 215 * (near - low) / max(high - low, 1e-9), 0).round().astype(np.uint8)
    return list(np.repeat(grey[..., None], 3, axis=-1))
