"""The keys of upstream's attention, computed once per rig or batch: cells, weights and encodings.

Axes: B batch, V views, N neighbours, T tokens (h * w cells, row-major), S keys of a token, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvdiff.interop.geometry import UpstreamTapGeometry
from mvdiff.models.attention.taps import FlatTaps

MAX_BASE_TWO_BANDS = 80


def frequency_bands(num_bands: int, base_two: bool = True) -> Tensor:
    """Return the encoding frequencies of a fresh block: base^k for k = 0, ..., n - 1, float32.

    The base is 2 for at most 80 bands, otherwise 5000^(2.5 / n). Checkpoints store their own frequencies.

    Args:
        num_bands: Number n of frequencies.
        base_two: Allow base 2; False for views with depth.

    Example:
        >>> frequency_bands(80)[-1].log2().item(), round(frequency_bands(160)[1].item(), 5)
        (79.0, 1.14234)
    """
    base = 2.0 if base_two and num_bands <= MAX_BASE_TWO_BANDS else 5000.0 ** (2.5 / num_bands)
    return torch.tensor([base**k for k in range(num_bands)], dtype=torch.float64).float()


def encode_keys(encoded: Tensor, second: Tensor | None, freq_bands: Tensor) -> Tensor:
    """Encode keys by sines and cosines of two numbers (docs/checkpoints.md).

    For views that share a centre, the encoding is `[sin x | sin y | cos x | cos y]` of the displacement (x, y). For
    views with depth, a pair of keys with depth differences d0 and d1 is encoded as `[sin d0 | sin d1]` for the first
    and `[cos d0 | cos d1]` for the second key.

    Args:
        encoded: [..., 2] float32, displacement in source cells, or depth differences in metres.
        second: [...] bool, True for the second key of a pair; None for views that share a centre.
        freq_bands: [n] float32 frequencies.

    Returns:
        [..., 4 n] float32 for views that share a centre, [..., 2 n] for views with depth.

    Example:
        >>> encode_keys(torch.zeros(2), None, torch.ones(2))
        tensor([0., 0., 0., 0., 1., 1., 1., 1.])
    """
    angles = (encoded.unsqueeze(-1) * freq_bands).flatten(-2)
    if second is None:
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
    return torch.where(second.unsqueeze(-1), angles.cos(), angles.sin())


@dataclass(frozen=True, eq=False)
class UpstreamTaps(FlatTaps):
    """All keys of every token of one level, including invalid ones, whose weights are 0.

    Attributes:
        valid: [(B,) V, T, S] bool, False for null tokens.
        present: [(B,) V, T, S] bool, False for padding, which is not a key.
        encoded: [(B,) V, T, S, 2] float32, see `UpstreamTapGeometry`.
        second: [(B,) V, T, S] bool, or None; see `UpstreamTapGeometry`.
    """

    tensors: ClassVar = ("cells", "weights", "views", "valid", "present", "encoded", "second")
    parts: ClassVar[tuple] = ()
    cells: Tensor
    weights: Tensor
    views: Tensor
    valid: Tensor
    present: Tensor
    encoded: Tensor
    second: Tensor | None
    height: int
    width: int
    _encodings: dict = field(default_factory=dict, repr=False)

    @classmethod
    def from_geometry(cls, geometry: UpstreamTapGeometry) -> UpstreamTaps:
        """Build the taps of one sample, with keys in the order (neighbour, tap)."""
        height, width = geometry.height, geometry.width
        taps_xy, encoded = (_tokens_first(values, 2) for values in (geometry.taps_xy, geometry.encoded))
        valid = _tokens_first(geometry.valid, 1)
        second = None if geometry.second is None else _tokens_first(geometry.second, 1)
        num_taps = geometry.valid.shape[-1]
        neighbours = geometry.neighbours.repeat_interleave(num_taps, dim=1)[:, None].expand_as(valid)

        size = torch.tensor([width, height], device=taps_xy.device)
        base = taps_xy.floor()
        fraction = taps_xy - base
        corner = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=taps_xy.device)
        corners = base.long().unsqueeze(-2) + corner
        weights = torch.where(corner.bool(), fraction.unsqueeze(-2), 1 - fraction.unsqueeze(-2)).prod(-1)
        inside = ((corners >= 0) & (corners < size)).all(-1)
        corners = corners.clamp(min=0).minimum(size - 1)
        views = neighbours.clamp(min=0)
        return cls(
            cells=views.unsqueeze(-1) * (height * width) + corners[..., 1] * width + corners[..., 0],
            weights=weights * (inside & valid.unsqueeze(-1)),
            views=views,
            valid=valid,
            present=neighbours >= 0,
            encoded=encoded,
            second=second,
            height=height,
            width=width,
        )

    @classmethod
    def joined(cls, samples: list[UpstreamTaps]) -> UpstreamTaps:
        """Stack samples along a new batch axis, padding them to the most keys with absent keys."""

        def stacked(name: str) -> Tensor | None:
            values = [getattr(sample, name) for sample in samples]
            if values[0] is None:
                return None
            padded = pad_sequence([value.movedim(2, 0) for value in values], batch_first=True)
            return padded.movedim(1, 3).contiguous()

        return replace(samples[0], **{name: stacked(name) for name in cls.tensors}, _encodings={})

    def encoding(self, freq_bands: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the encoding of every key, [(B,) V, T, S, C] in `dtype`; see `encode_keys`.

        The encoding is computed in float32 and cached per frequencies and dtype; inside torch.compile it is not cached.
        """
        if torch.compiler.is_compiling():
            return encode_keys(self.encoded, self.second, freq_bands).to(dtype)
        key = (tuple(freq_bands.tolist()), dtype)
        if key not in self._encodings:
            with torch.inference_mode(False), torch.no_grad():  # training cannot use tensors made in inference mode
                self._encodings[key] = encode_keys(self.encoded, self.second, freq_bands.clone()).to(dtype)
        return self._encodings[key]


def _tokens_first(values: Tensor, rest: int) -> Tensor:
    """Reorder [V, N, T, P, ...] to [V, T, N * P, ...]; `rest` is the number of axes from P on."""
    return values.transpose(-2 - rest, -1 - rest).flatten(-1 - rest, -rest)
