"""Build the taps of correspondence-aware attention from the cameras or depths of a batch.

Axes: B samples, V views, N neighbours of a view, T tokens, P taps, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry import depth_tap_geometry, overlap_matrix, overlap_neighbours
from mvdiff.geometry.correspondence import TapGeometry, neighbour_table, overlapping_neighbours, tap_geometry
from mvdiff.models.attention.base import Level, shared_cameras
from mvdiff.models.attention.taps import PackedTaps
from mvdiff.shapes import check_shapes


def camera_taps(
    batch: MultiViewBatch,
    levels: Sequence[Level],
    kernel_size: int,
    min_overlap: float,
    neighbours: Sequence[Sequence[int]] | None,
) -> list[PackedTaps]:
    """Build the taps of views that share a centre, from homographies; all samples share them.

    See `CorrespondenceAwareAttention` for the settings.

    Raises:
        ValueError: The samples have different cameras, or `neighbours` does not fit the views.
    """
    K, R = shared_cameras(batch)
    height, width = levels[0].height * levels[0].stride, levels[0].width * levels[0].stride
    if neighbours is None:
        table = overlapping_neighbours(K, R, height, width, min_overlap)
    else:
        table = neighbour_table(neighbours, len(K))
    return [
        PackedTaps.from_geometry(tap_geometry(K, R, height, width, level.stride, table, kernel_size))
        for level in levels
    ]


def depth_taps(
    batch: MultiViewBatch, levels: Sequence[Level], kernel_size: int, min_overlap: float
) -> list[PackedTaps]:
    """Build the taps of each sample from depths and poses, on the device of the depths.

    The neighbours of a view are the views that overlap it in both directions, or else the previous and the next view
    (see `overlap_neighbours`). Padded views have no neighbours and are not neighbours of others. See
    `CorrespondenceAwareAttention` for the settings.
    """
    K, R, t, depths = batch.K, batch.R, batch.t, batch.depths
    check_shapes(K=(K, "B V 3 3"), R=(R, "B V 3 3"), t=(t, "B V 3"), depths=(depths, "B V H W"))
    samples = []
    for K_V, R_V, t_V, depths_V, valid_V in zip(K, R, t, depths, batch.view_valid.to(depths.device), strict=True):
        cameras = [camera.to(depths.device) for camera in (K_V, R_V, t_V)]
        views = valid_V.nonzero()[:, 0]
        stride = min(4, *depths.shape[-2:])
        overlap = overlap_matrix(*(camera[views] for camera in cameras), depths_V[views], stride)
        near = overlap_neighbours(overlap, min_overlap)
        neighbours = near.new_full((len(valid_V), near.shape[1]), -1)
        neighbours[views] = torch.where(near >= 0, views[near.clamp(min=0)], -1)
        samples.append((*cameras, depths_V, neighbours))
    return [
        PackedTaps.from_geometry(
            _joined([depth_tap_geometry(*views, level.stride, near, kernel_size) for *views, near in samples])
        )
        for level in levels
    ]


def _joined(samples: list[TapGeometry]) -> TapGeometry:
    """Stack samples along a new batch axis, padding them to the most neighbours with invisible taps."""

    def stacked(name: str, padding: int) -> Tensor:
        values = [getattr(sample, name).transpose(0, 1) for sample in samples]
        return pad_sequence(values, batch_first=True, padding_value=padding).transpose(1, 2)

    padding = {"neighbours": -1, "taps_xy": 0, "visible": 0, "displacement": 0}
    return replace(samples[0], **{name: stacked(name, value) for name, value in padding.items()})
