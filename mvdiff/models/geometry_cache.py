"""The geometry of attention, prepared once per rig: which cells each token reads, with which weights.

`mvdiff.geometry` says where a token of one view is seen in the others. Here that is turned into what the hot path
needs: flat indices and bilinear weights for one vectorised gather, without the taps that nobody sees.

Axes: B batch, V views, U other views, T tokens (h * w cells, row-major), P taps of a neighbourhood, S slots of a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mvdiff.geometry import depth_tap_geometry, overlap_matrix, overlap_neighbours
from mvdiff.geometry.correspondence import TapGeometry, neighbour_table, overlapping_neighbours, tap_geometry
from mvdiff.geometry.upstream import ring_tap_geometry, upstream_depth_tap_geometry
from mvdiff.models.upstream.taps import UpstreamTaps
from mvdiff.shapes import check_shapes

DEFAULT_WAVELENGTHS = (0.5, 16.0)
DEFAULT_MIN_OVERLAP = 0.01
DEFAULT_MIN_DEPTH_OVERLAP = 0.3
"""Of views with depth, where the smaller of the two directions counts (the paper's depth model)."""
MAX_PARTS = 5
"""Of a level's tokens, by how many taps they see: 96, 48, 24, 12 and 6 at most, say."""


def encode_displacement(
    displacement: Tensor, channels: int, wavelengths: tuple[float, float] = DEFAULT_WAVELENGTHS
) -> Tensor:
    """Encode 2-D displacements by sines and cosines (gamma of the paper's section 4.2; the bands are our own).

    `channels / 4` angular frequencies per axis, geometrically spaced between `2 pi / longest` and `2 pi / shortest`
    wavelength; the channels are the blocks `[sin x | sin y | cos x | cos y]`, so gamma(0) = `[0 | 0 | 1 | 1]`.

    The bounds follow from what a displacement can be. A tap lies at most `kernel_size // 2` cells from the
    corresponding point in the *target*, and homographies of overlapping views stretch by small factors (2 along x for
    FoV 90 views 45 degrees apart), so displacements stay within about 4 *source* cells. The longest wavelength is 16
    cells: its sine is monotone, hence unambiguous, over [-4, 4]. The shortest is half a cell: four samples of a
    wave, an eighth of a cell, is one image pixel of an 8x autoencoder; finer waves would only be hash-like noise. All
    arguments stay below 60 radians, so float32 is exact to about 1e-5.

    Args:
        displacement: [..., 2] (x, y) in source cells.
        channels: size of the encoding, divisible by 4.
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


@dataclass(frozen=True, eq=False)
class PackedTaps:
    """The visible taps of every token of one level, packed to the front of as few slots as possible.

    In a ring of FoV-90 views every point is seen by one neighbour or the other, so half of the N * P taps of a token
    are never visible; packing leaves them out of the gather, the normalisation and the dot products.

    Attributes:
        cells: [(B,) V, T, S, 4] long, the four corner cells of a tap as `view * T + token` of the same sample.
        weights: [(B,) V, T, S, 4] float32 bilinear weights; 0 for empty slots.
        views: [(B,) V, T, S] long, the view a tap lies in.
        visible: [(B,) V, T, S] bool, False for empty slots.
        displacement: [(B,) V, T, S, 2] float32, s* - s in source cells; 0 for empty slots.
        height: rows of cells.
        width: columns of cells.
        parts: the same taps with less padding, where tokens see very differently much: `(rows, taps)` with rows [R]
            long among the B * V * T tokens and taps of [R, S, ...], S the most that one of these tokens has. Tokens
            without any visible tap are in none. Empty where one table serves well, and for taps that all samples share.
    """

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
        """Pack the taps of a `TapGeometry`.

        A tap inside the image but beyond the outermost cell centres reads the border cell (its corners are clamped).
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
        """Part tokens by how much they see: up to S taps, S/2, S/4, ...; nothing where that saves less than half."""
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
        """Change every tensor; parts and kept encodings are left out."""
        names = ("cells", "weights", "views", "visible", "displacement")
        changed = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed, parts=(), _encodings={})

    def split_parts(self, rows: int) -> Iterator[tuple[Tensor, PackedTaps]]:
        """Yield `parts`, of no more than so many rows each."""
        for own, part in self.parts:
            if len(own) <= rows:
                yield own, part
                continue
            for start in range(0, len(own), rows):
                some = slice(start, start + rows)
                yield own[some], part._map(lambda values, some=some: values[some])

    @property
    def num_views(self) -> int:
        """Views of a sample."""
        return self.visible.shape[-3]

    @property
    def batch_size(self) -> int | None:
        """Samples with taps of their own; None for taps that serve any sample."""
        return len(self.visible) if self.visible.ndim == 4 else None

    def to(self, device: torch.device | str) -> PackedTaps:
        """Return a copy on `device`, with an empty cache of encodings."""
        parts = tuple((rows.to(device), part.to(device)) for rows, part in self.parts)
        return replace(self._map(lambda values: values.to(device)), parts=parts)

    def repeat(self, times: int) -> PackedTaps:
        """Return the taps of the same samples, `times` times over; taps that serve any sample stay as they are."""
        if self.batch_size is None:
            return self
        num_tokens = self.visible[..., 0].numel()
        parts = tuple(
            (torch.cat([rows + run * num_tokens for run in range(times)]), part._map(lambda v: torch.cat([v] * times)))
            for rows, part in self.parts
        )
        return replace(self._map(lambda values: torch.cat([values] * times)), parts=parts)

    def encoding(self, channels: int, wavelengths: tuple[float, float], dtype: torch.dtype) -> Tensor:
        """Return gamma(s* - s) of every slot: [(B,) V, T, S, channels], computed in float32 once, kept per dtype.

        Inside torch.compile a missing entry is computed in the graph and not kept.
        """
        key = (channels, *wavelengths, dtype)
        if key in self._encodings:
            return self._encodings[key]
        if torch.compiler.is_compiling():
            return encode_displacement(self.displacement, channels, wavelengths).to(dtype)
        with torch.inference_mode(False), torch.no_grad():  # what inference mode made, training could not use
            self._encodings[key] = encode_displacement(self.displacement, channels, wavelengths).to(dtype)
        return self._encodings[key]


def _tokens_first(taps: Tensor) -> Tensor:
    """[..., N, T, P, 2] -> [..., T, N * P, 2]."""
    return taps.transpose(-4, -3).flatten(-3, -2)


def split_views(taps: PackedTaps | UpstreamTaps, views: int) -> Iterator[tuple[slice, PackedTaps | UpstreamTaps]]:
    """Yield the taps of some views at a time, `views` of each sample; the encodings of a part are not kept."""
    if views >= taps.num_views:
        yield slice(None), taps
        return
    for start in range(0, taps.num_views, views):
        some = slice(start, start + views)
        own = some if taps.batch_size is None else (slice(None), some)
        yield some, taps._map(lambda values, own=own: values[own])


@dataclass(frozen=True, eq=False)
class MultiViewGeometry:
    """Packed taps for every resolution of a UNet: built once, reused over steps and layers.

    Of views that share a centre only the cameras relative to each other count: turning the whole rig (a random yaw)
    changes nothing, so one object serves all samples of a whole training run. Views with depth have taps of their own
    in every sample: one object per batch. Level l has cells of `vae_stride * 2**l` pixels.
    """

    levels: tuple[PackedTaps | UpstreamTaps, ...]

    @classmethod
    def from_cameras(
        cls,
        K: Tensor,
        R: Tensor,
        height: int,
        width: int,
        vae_stride: int,
        num_levels: int,
        neighbours: Tensor | Sequence[Sequence[int]] | None = None,
        kernel_size: int = 3,
        min_overlap: float = DEFAULT_MIN_OVERLAP,
        variant: str = "paper",
    ) -> MultiViewGeometry:
        """Build the taps of views that share a centre.

        Args:
            K: [V, 3, 3] intrinsics, in pixels of the image.
            R: [V, 3, 3] world-from-camera rotations.
            height: rows of the *latents*; the image has `height * vae_stride` rows.
            width: columns of the latents.
            vae_stride: pixels per latent cell.
            num_levels: resolutions of the UNet (`len(unet.down_blocks)`).
            neighbours: the views each view attends to where they overlap: a list per view (see `neighbour_table`), or
                [V, N] long, padded with -1; default: all that overlap.
            kernel_size: K of the K x K neighbourhood.
            min_overlap: smallest share of the image that counts as an overlap, where `neighbours` is not given.
            variant: of the adapter. With "upstream" a view attends to the views before and after it, whatever
                `neighbours` and `min_overlap` say (see `mvdiff.geometry.upstream`).

        Example:
            >>> from mvdiff.geometry.cameras import RingRig
            >>> K, R = RingRig(num_views=8, height=64, width=64).cameras()
            >>> geometry = MultiViewGeometry.from_cameras(K, R, 16, 16, vae_stride=4, num_levels=3)
            >>> [(level.height, level.width) for level in geometry.levels]
            [(16, 16), (8, 8), (4, 4)]
        """
        image_height, image_width = height * vae_stride, width * vae_stride
        if variant == "upstream":
            scales = [vae_stride * 2**level for level in range(num_levels)]
            rings = ring_tap_geometry(K, R, image_height, image_width, scales, kernel_size)
            return cls(tuple(UpstreamTaps.from_geometry(ring).to(K.device) for ring in rings))
        if neighbours is None:
            neighbours = overlapping_neighbours(K, R, image_height, image_width, min_overlap)
        elif not isinstance(neighbours, Tensor):
            neighbours = neighbour_table(neighbours, len(K))
        levels = (
            tap_geometry(K, R, image_height, image_width, vae_stride * 2**level, neighbours, kernel_size)
            for level in range(num_levels)
        )
        return cls(tuple(PackedTaps.from_geometry(level) for level in levels))

    @classmethod
    def from_depths(
        cls,
        K: Tensor,
        R: Tensor,
        t: Tensor,
        depths: Tensor,
        vae_stride: int,
        num_levels: int,
        kernel_size: int = 3,
        min_overlap: float = DEFAULT_MIN_DEPTH_OVERLAP,
        view_valid: Tensor | None = None,
        variant: str = "paper",
    ) -> MultiViewGeometry:
        """Build the taps of samples whose views have depth and pose, each sample's own.

        A view's neighbours are those that overlap it both ways, or the ones before and after it (see
        `overlap_neighbours`); padding is nobody's neighbour and has none.

        Args:
            K: [B, V, 3, 3] intrinsics, in pixels of the image.
            R: [B, V, 3, 3] world-from-camera rotations.
            t: [B, V, 3] camera centres in the world, metres.
            depths: [B, V, H, W] z-depth in metres, 0 = none.
            vae_stride: pixels per latent cell.
            num_levels: resolutions of the UNet (`len(unet.down_blocks)`).
            kernel_size: K of the K x K neighbourhood.
            min_overlap: what the smaller share of two views must exceed for them to be neighbours.
            view_valid: [B, V] bool, False for padding; default: all valid.
            variant: of the adapter. With "upstream" a token has one tap in each neighbour, and overlaps are measured on
                all pixels and without a test for occlusion (see `mvdiff.geometry.upstream`).

        Returns:
            Taps with a leading batch axis, on the device of `depths`.

        Example:
            >>> from mvdiff.geometry.cameras import intrinsics_from_fov
            >>> K = intrinsics_from_fov(90.0, height=8, width=16).expand(2, 3, 3, 3)
            >>> R, t, depths = torch.eye(3).expand(2, 3, 3, 3), torch.zeros(2, 3, 3), torch.full((2, 3, 8, 16), 2.0)
            >>> geometry = MultiViewGeometry.from_depths(K, R, t, depths, vae_stride=4, num_levels=2)
            >>> [level.visible.shape[:3] for level in geometry.levels]  # [B, V, T]
            [torch.Size([2, 3, 8]), torch.Size([2, 3, 2])]
        """
        check_shapes(K=(K, "B V 3 3"), R=(R, "B V 3 3"), t=(t, "B V 3"), depths=(depths, "B V H W"))
        if view_valid is None:
            view_valid = torch.ones(K.shape[:2], dtype=torch.bool)
        if variant == "upstream":
            return cls._from_depths_as_upstream(K, R, t, depths, vae_stride, num_levels, min_overlap, view_valid)
        samples = []
        for K_V, R_V, t_V, depths_V, valid_V in zip(K, R, t, depths, view_valid.to(depths.device), strict=True):
            cameras = [camera.to(depths.device) for camera in (K_V, R_V, t_V)]
            views = valid_V.nonzero()[:, 0]
            stride = min(4, *depths.shape[-2:])
            overlap = overlap_matrix(*(camera[views] for camera in cameras), depths_V[views], stride)
            found = overlap_neighbours(overlap, min_overlap)
            neighbours = found.new_full((len(valid_V), found.shape[1]), -1)
            neighbours[views] = torch.where(found >= 0, views[found.clamp(min=0)], -1)
            samples.append((*cameras, depths_V, neighbours))
        levels = []
        for level in range(num_levels):
            taps = [depth_tap_geometry(*views, vae_stride * 2**level, near, kernel_size) for *views, near in samples]
            levels.append(PackedTaps.from_geometry(_joined(taps)))
        return cls(tuple(levels))

    @classmethod
    def _from_depths_as_upstream(
        cls, K, R, t, depths, vae_stride, num_levels, min_overlap, view_valid
    ) -> MultiViewGeometry:
        scales = [vae_stride * 2**level for level in range(num_levels)]
        samples = [
            upstream_depth_tap_geometry(*views, scales, min_overlap, valid.nonzero()[:, 0].tolist())
            for *views, valid in zip(K, R, t, depths, view_valid, strict=True)
        ]
        levels = ([UpstreamTaps.from_geometry(taps) for taps in level] for level in zip(*samples, strict=True))
        return cls(tuple(UpstreamTaps.joined(level).to(depths.device) for level in levels))

    @property
    def num_views(self) -> int:
        """Views of a sample."""
        return self.levels[0].num_views

    def to(self, device: torch.device | str) -> MultiViewGeometry:
        """Return a copy on `device`."""
        return MultiViewGeometry(tuple(level.to(device) for level in self.levels))

    def repeat(self, times: int) -> MultiViewGeometry:
        """Return the geometry of the same samples, `times` times over (2 for classifier-free guidance)."""
        return MultiViewGeometry(tuple(level.repeat(times) for level in self.levels))


def _joined(samples: list[TapGeometry]) -> TapGeometry:
    """Give samples a leading batch axis; those with fewer neighbours are padded with neighbours that see nothing."""
    most = max(sample.neighbours.shape[1] for sample in samples)

    def stacked(name: str, padding: int | bool) -> Tensor:
        values = []
        for value in (getattr(sample, name) for sample in samples):
            missing = value.new_full((value.shape[0], most - value.shape[1], *value.shape[2:]), padding)
            values.append(torch.cat([value, missing], dim=1))
        return torch.stack(values)

    padding = {"neighbours": -1, "taps_xy": 0, "visible": False, "displacement": 0}
    return replace(samples[0], **{name: stacked(name, value) for name, value in padding.items()})
