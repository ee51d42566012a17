"""Upstream's attention between views, with the numbers of its published weights (docs/checkpoints.md).

Axes: B batch, V views, T tokens (h * w cells), S keys of a token, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from mvdiff.models.attention import CorrespondenceAwareAttention
from mvdiff.models.upstream.taps import UpstreamTaps, encode_keys, frequency_bands


class UpstreamAttention(CorrespondenceAwareAttention):
    """Attend from each token to all taps of its neighbour views, the invalid ones included.

    Where it differs from `CorrespondenceAwareAttention`: an invalid tap is zeroed *before* the layer norm, so it is a
    key all the same, the norm's bias (a learned null token), and takes its share of the softmax; features beyond the
    border are zero; the encoding's frequencies are part of the weights. Views that share a centre: keys and query are
    encoded by displacement. Views with depth: keys are encoded in pairs by differences of z, the query is not.

    Args:
        channels: C, divisible by 4 and by `head_dim`.
        head_dim: width of a head; upstream's is 32.
        depth: whether the block is one of the depth model: its encoding, and a residual block after the attention.
    """

    taps_type: ClassVar[type] = UpstreamTaps

    def __init__(self, channels: int, head_dim: int = 32, depth: bool = False) -> None:
        super().__init__(channels, head_dim, residual=depth)
        self.depth = depth
        bands = frequency_bands(channels // 2, base_two=False) if depth else frequency_bands(channels // 4)
        self.register_buffer("freq_bands", bands)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast the module; the frequencies stay float32, since 2^79 is beyond half precision."""
        bands = self.freq_bands
        super()._apply(fn, recurse)
        if not bands.is_meta:
            self.freq_bands = bands.to(self.freq_bands.device)
        return self

    def _update(
        self, own: Tensor, tokens: Tensor, taps: UpstreamTaps, lenders: Tensor, view_valid: Tensor | None
    ) -> Tensor:
        """Return what tokens [..., C] take from the views they see; see the base class."""
        if self.depth != (taps.second is not None):
            kinds = ("views that share a centre", "views with depth")
            raise ValueError(
                f"geometry must be of {kinds[self.depth]} for this adapter; got one of {kinds[not self.depth]}. "
                "Build it with MultiViewGeometry.from_depths for a depth adapter, else with from_cameras."
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
