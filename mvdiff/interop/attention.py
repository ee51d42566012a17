"""Upstream's attention between views, which reproduces the outputs of its published weights (docs/checkpoints.md).

Axes: B batch, V views, T tokens (h * w cells), S keys of a token, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.interop.geometry import ring_tap_geometry, rounded_rotations, upstream_depth_tap_geometry
from mvdiff.interop.taps import UpstreamTaps, encode_keys, frequency_bands
from mvdiff.models.attention import CorrespondenceAwareAttention, Level
from mvdiff.models.attention.base import shared_cameras
from mvdiff.models.attention.correspondence import DEFAULT_MIN_DEPTH_OVERLAP

CLASS_PATH = f"{__name__}.UpstreamAttention"


class UpstreamAttention(CorrespondenceAwareAttention):
    """Attend from each token to all taps of its neighbour views, including invalid taps.

    Differences from `CorrespondenceAwareAttention`: an invalid tap is zeroed *before* the layer norm, so it remains a
    key (the norm's bias, a learned null token) and takes part in the softmax; features beyond the border are zero; the
    encoding's frequencies are part of the weights. For views that share a centre, keys and query are encoded by
    displacement, and a view attends to the previous and the next view. For views with depth, keys are encoded in pairs
    by differences of z and the query is not encoded; a token has one tap per neighbour, and overlaps are measured on
    all pixels without an occlusion test (see `mvdiff.interop.geometry`).

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        depth: True for the depth model, which also has a residual block after each attention.
        head_dim: Channels per head (upstream: 32).
        kernel_size: Side K of the K x K taps of a ring (default 3); None or 1 for depth.
        min_overlap: For depth, the fraction of each other that two views must see to be neighbours (default 0.3).

    Raises:
        ValueError: A setting is out of range, or applies to the other kind of views only.
    """

    taps_type: ClassVar[type] = UpstreamTaps

    def __init__(
        self,
        channels: int,
        *,
        depth: bool = False,
        head_dim: int = 32,
        kernel_size: int | None = None,
        min_overlap: float | None = None,
    ) -> None:
        if depth and kernel_size not in (None, 1):
            raise ValueError(f"kernel_size must be 1 or left out when depth is true; got {kernel_size}.")
        if not depth and min_overlap is not None:
            raise ValueError(f"min_overlap must be left out when depth is false; got {min_overlap}.")
        kernel_size = (1 if depth else 3) if kernel_size is None else kernel_size
        min_overlap = DEFAULT_MIN_DEPTH_OVERLAP if min_overlap is None else min_overlap
        super().__init__(channels, kernel_size=kernel_size, head_dim=head_dim, min_overlap=min_overlap)
        self.depth = depth
        bands = frequency_bands(channels // 2, base_two=False) if depth else frequency_bands(channels // 4)
        self.register_buffer("freq_bands", bands)

    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[UpstreamTaps]:
        """Build the taps of a batch: per sample from depths, or shared by all samples of a ring.

        Raises:
            ValueError: A level's cells do not divide the image, or the samples of a ring do not share their cameras.
        """
        strides = [level.stride for level in levels]
        if batch.depths is None:
            K, R = shared_cameras(batch)
            height, width = levels[0].height * levels[0].stride, levels[0].width * levels[0].stride
            return [
                UpstreamTaps.from_geometry(level)
                for level in ring_tap_geometry(K, rounded_rotations(R), height, width, strides, self.kernel_size)
            ]
        views = zip(batch.K, batch.R, batch.t, batch.depths, batch.view_valid, strict=True)
        samples = [
            upstream_depth_tap_geometry(*sample, strides, self.min_overlap, valid.nonzero()[:, 0].tolist())
            for *sample, valid in views
        ]
        return [
            UpstreamTaps.joined([UpstreamTaps.from_geometry(sample) for sample in level]).to(batch.depths.device)
            for level in zip(*samples, strict=True)
        ]

    def check_depth(self) -> None:
        """Raise ValueError where the block is one of a ring."""
        super().check_depth()
        if not self.depth:
            raise ValueError("the adapter must be one for views with depth; got one for views that share a centre.")

    def check_shared_centre(self) -> None:
        """Raise ValueError where the block is one of the depth model."""
        if self.depth:
            raise ValueError("the adapter must be one for views that share a centre; got one for views with depth.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast the module; the frequencies stay float32, since half precision cannot represent 2^79."""
        bands = self.freq_bands
        super()._apply(fn, recurse)
        if not bands.is_meta:
            self.freq_bands = bands.to(self.freq_bands.device)
        return self

    def _update(
        self, own: Tensor, tokens: Tensor, taps: UpstreamTaps, lenders: Tensor, view_valid: Tensor | None
    ) -> Tensor:
        if self.depth != (taps.second is not None):
            kinds = ("views that share a centre", "views with depth")
            raise ValueError(
                f"geometry must be for {kinds[self.depth]} with this adapter; got one for {kinds[not self.depth]}."
            )

        seen = self._gather(tokens, taps, lenders)
        seen = seen.add_(taps.encoding(self.freq_bands, tokens.dtype))
        seen = self.norm1(seen * taps.valid.unsqueeze(-1))  # (value + encoding) x mask, then the norm
        present = taps.present.expand(seen.shape[:-1])
        if view_valid is not None:
            present = present & view_valid[lenders[..., None], taps.views]
        if self.depth:
            return self._mix(own, seen, present)
        origin = encode_keys(self.freq_bands.new_zeros(2), None, self.freq_bands)
        return self._mix(own + origin.to(tokens.dtype), seen, present)
