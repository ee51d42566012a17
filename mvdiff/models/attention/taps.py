"""The taps of correspondence-aware attention: the cells that each token reads, and their weights.

`mvdiff.geometry` computes where the other views see a token. This module packs the visible taps into flat cell indices
and bilinear weights, so that the attention reads them in one gather.

Axes: B batch, V views, T tokens (h * w cells, row-major), P taps of a neighbourhood, S slots of a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import TapGeometry

DEFAULT_WAVELENGTHS = (0.5, 16.0)
MAX_PARTS = 5
"""Maximum number of parts that a level's tokens are split into by their number of visible taps, see `PackedTaps`."""
AnyTaps = TypeVar("AnyTaps", bound="FlatTaps")


def encode_displacement(
    displacement: Tensor, channels: int, wavelengths: tuple[float, float] = DEFAULT_WAVELENGTHS
) -> Tensor:
    """Encode 2-D displacements by sines and cosines (gamma of the paper's section 4; the frequencies are our own).

    Each axis has `channels / 4` angular frequencies, geometrically spaced between `2 pi / longest` and
    `2 pi / shortest` wavelength. The channels are the blocks `[sin x | sin y | cos x | cos y]`, so gamma(0) =
    `[0 | 0 | 1 | 1]`.

    The default wavelengths follow from the range of displacements. A tap lies at most `kernel_size // 2` cells from the
    corresponding point in the *target*, and homographies of overlapping views stretch by small factors (2 along x for
    90-degree views 45 degrees apart), so displacements stay within about 4 *source* cells. The longest wavelength, 16
    cells, has a sine that is monotone, hence unambiguous, over [-4, 4]. The shortest is half a cell: a quarter of that
    wave, an eighth of a cell, is one image pixel of an 8x autoencoder; shorter waves would only add noise. All
    arguments stay below 60 radians, so float32 is accurate to about 1e-5.

    Args:
        displacement: [..., 2] (x, y) in source cells.
        channels: Size of the encoding, divisible by 4.
        wavelengths: (shortest, longest) in source cells.

    Returns:
        [..., channels] float32 in [-1, 1].

    Example:
        >>> encode_displacement(torch.zeros(2), 8)
        tensor([0., 0., 0., 0., 1., 1., 1., 1.])
    """
    shortest, longest = wavelengths
    bands = channels // 4
    exponents = torch.linspace(0.0, 1.0, bands, device=displacement.device, dtype=torch.float32)
    frequencies = (2.0 * math.pi / longest) * (longest / shortest) ** exponents
    angles = (displacement.float().unsqueeze(-1) * frequencies).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FlatTaps:
    """Base of dataclasses that store the taps of one level as tensors [(B,) V, T, S, ...] with flat cell indices.

    Attributes:
        tensors: Names of the tensor fields; a field may be None.
        cells: [(B,) V, T, S, 4] long, the four corner cells of a tap as `view * T + token` within the sample.
        weights: [(B,) V, T, S, 4] float32 bilinear weights of the corners.
        views: [(B,) V, T, S] long, the view that a tap lies in.
        height: Rows of cells.
        width: Columns of cells.
    """

    tensors: ClassVar[tuple[str, ...]]

    @property
    def num_views(self) -> int:
        """Number of views per sample."""
        return self.views.shape[-3]

    @property
    def batch_size(self) -> int | None:
        """Number of samples, each with its own taps; None if all samples share the taps."""
        return len(self.views) if self.views.ndim == 4 else None

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on `device`, without cached encodings."""
        return self._map(lambda values: values.to(device))

    def repeat(self, times: int) -> Self:
        """Return the taps repeated `times` times along the batch; shared taps are returned unchanged."""
        return self if self.batch_size is None else self._map(lambda values: torch.cat([values] * times))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply `change` to every tensor; cached encodings are dropped."""
        values = {name: getattr(self, name) for name in self.tensors}
        return replace(self, **{name: v if v is None else change(v) for name, v in values.items()}, _encodings={})


@dataclass(frozen=True, eq=False)
class PackedTaps(FlatTaps):
    """The visible taps of every token of one level, packed into as few slots as possible.

    In a ring of 90-degree views only one of two neighbours sees a point, so half of the N * P taps of a token are
    invisible; packing leaves them out of the gather, the normalisation and the dot products. Empty slots come last and
    have weights and displacement 0.

    Attributes:
        visible: [(B,) V, T, S] bool, False for empty slots.
        displacement: [(B,) V, T, S, 2] float32, s* - s in source cells.
        parts: The same taps with less padding, for levels whose tokens have very different numbers of visible taps:
            pairs `(rows, taps)` with rows [R] long into the B * V * T tokens and taps [R, S, ...], S being the most
            taps of a token in the part. Tokens without visible taps are in no part. Empty if the saving is less than
            half, and for shared taps.
    """

    tensors: ClassVar = ("cells", "weights", "views", "visible", "displacement")
    cells: Tensor
    weights: Tensor
    views: Tensor
    visible: Tensor
    displacement: Tensor
    height: int
    width: int
    parts: tuple[tuple[Tensor, PackedTaps], ...] = ()
    _encodings: dict = field(default_factory=dict, repr=False)

    @classmethod
    def from_geometry(cls, geometry: TapGeometry) -> PackedTaps:
        """Pack the visible taps of a `TapGeometry`.

        Corners are clamped, so a tap inside the image but beyond the outermost cell centres reads the border cell.
        """
        height, width = geometry.height, geometry.width
        taps_xy = _tokens_first(geometry.taps_xy)
        displacement = _tokens_first(geometry.displacement)
        num_taps = geometry.visible.shape[-1]
        neighbours = geometry.neighbours[..., None, :, None].expand(
            *geometry.visible.shape[:-3], height * width, -1, num_taps
        )
        neighbours = neighbours.flatten(-2)
        visible = geometry.visible.transpose(-3, -2).flatten(-2) & (neighbours >= 0)

        num_slots = max(1, int(visible.sum(-1).max()))
        slots = visible.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :num_slots]
        visible = visible.gather(-1, slots)
        views = neighbours.gather(-1, slots) * visible
        pairs = slots.unsqueeze(-1).expand(*slots.shape, 2)
        taps_xy = taps_xy.gather(-2, pairs) * visible.unsqueeze(-1)
        displacement = displacement.gather(-2, pairs) * visible.unsqueeze(-1)

        size = torch.tensor([width, height], device=taps_xy.device)
        base = taps_xy.floor()
        fraction = taps_xy - base
        corner = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=taps_xy.device)
        corners = (base.long().unsqueeze(-2) + corner).clamp(min=0).minimum(size - 1)
        weights = torch.where(corner.bool(), fraction.unsqueeze(-2), 1 - fraction.unsqueeze(-2)).prod(-1)
        cells = views.unsqueeze(-1) * (height * width) + corners[..., 1] * width + corners[..., 0]
        taps = cls(
            cells=cells,
            weights=(weights * visible.unsqueeze(-1)).float(),
            views=views,
            visible=visible,
            displacement=displacement.float(),
            height=height,
            width=width,
        )
        return taps if taps.batch_size is None else replace(taps, parts=taps._parted())

    def _parted(self) -> tuple[tuple[Tensor, PackedTaps], ...]:
        """Group tokens by visible taps (up to S, S/2, S/4, ...); return no parts if that saves less than half."""
        counts = self.visible.sum(-1).flatten()
        parts, most = [], int(counts.max())
        while most > 0:
            fewer = most // 2 if len(parts) < MAX_PARTS - 1 else 0
            rows = ((counts > fewer) & (counts <= most)).nonzero()[:, 0]
            if len(rows):
                slots = int(counts[rows].max())
                parts.append((rows, self._map(lambda values, r=rows, s=slots: values.flatten(0, 2)[r, :s])))
            most = fewer
        slots = sum(part.visible.numel() for _, part in parts)
        return tuple(parts) if 2 * slots < self.visible.numel() else ()

    def _map(self, change: Callable[[Tensor], Tensor]) -> PackedTaps:
        """Apply `change` to every tensor; parts and cached encodings are dropped."""
        return replace(super()._map(change), parts=())

    def split_parts(self, rows: int) -> Iterator[tuple[Tensor, PackedTaps]]:
        """Yield `parts`, split into pieces of at most `rows` tokens."""
        for own, part in self.parts:
            if len(own) <= rows:
                yield own, part
                continue
            for start in range(0, len(own), rows):
                some = slice(start, start + rows)
                yield own[some], part._map(lambda values, some=some: values[some])

    def split_tokens(self, size: int) -> Iterator[PackedTaps]:
        """Yield the taps of `size` tokens of each view at a time; cached encodings are sliced with them."""
        axis, num_tokens = self.visible.ndim - 2, self.visible.shape[-2]
        if size >= num_tokens:
            yield self
            return
        for start in range(0, num_tokens, size):
            some = (axis, start, min(size, num_tokens - start))
            piece = self._map(lambda values, some=some: values.narrow(*some))
            piece._encodings.update({key: values.narrow(*some) for key, values in self._encodings.items()})
            yield piece

    def to(self, device: torch.device | str) -> PackedTaps:
        """Return a copy on `device`, parts included, without cached encodings."""
        return replace(super().to(device), parts=tuple((rows.to(device), part.to(device)) for rows, part in self.parts))

    def repeat(self, times: int) -> PackedTaps:
        """Return the taps repeated `times` times along the batch, parts included."""
        num_tokens = self.visible[..., 0].numel()
        parts = tuple(
            (torch.cat([rows + run * num_tokens for run in range(times)]), part._map(lambda v: torch.cat([v] * times)))
            for rows, part in self.parts
        )
        return replace(super().repeat(times), parts=parts) if parts else super().repeat(times)

    def encoding(self, channels: int, wavelengths: tuple[float, float], dtype: torch.dtype) -> Tensor:
        """Return gamma(s* - s) of every slot, [(B,) V, T, S, channels] in `dtype`; see `encode_displacement`.

        The encoding is computed in float32 and cached per dtype; inside torch.compile a missing one is not cached.
        """
        key = (channels, *wavelengths, dtype)
        if key in self._encodings:
            return self._encodings[key]
        if torch.compiler.is_compiling():
            return encode_displacement(self.displacement, channels, wavelengths).to(dtype)
        with torch.inference_mode(False), torch.no_grad():  # training cannot use tensors made in inference mode
            self._encodings[key] = encode_displacement(self.displacement, channels, wavelengths).to(dtype)
        return self._encodings[key]


def _tokens_first(taps: Tensor) -> Tensor:
    """Reorder [..., N, T, P, 2] to [..., T, N * P, 2]."""
    return taps.transpose(-4, -3).flatten(-3, -2)


def split_views(taps: AnyTaps, views: int) -> Iterator[tuple[slice, AnyTaps]]:
    """Yield `(slice, taps)` for every `views` query views of each sample; encodings are not shared between them."""
    if views >= taps.num_views:
        yield slice(None), taps
        return
    for start in range(0, taps.num_views, views):
        some = slice(start, start + views)
        own = some if taps.batch_size is None else (slice(None), some)
        yield some, taps._map(lambda values, own=own: values[own])
