"""The base class of attention across views, and the geometry it attends by.

Axes: B batch, V views, T tokens (h * w cells, row-major), C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch


@dataclass(frozen=True)
class Level:
    """One resolution of a UNet.

    Attributes:
        height: Rows of cells.
        width: Columns of cells.
        stride: Image pixels per cell along each side.
    """

    height: int
    width: int
    stride: int


class Taps(Protocol):
    """Positions in the other views that the tokens of one resolution attend to.

    An attention class adds the tensors that its `attend` reads.

    Attributes:
        height: Rows of cells.
        width: Columns of cells.
    """

    height: int
    width: int

    @property
    def num_views(self) -> int:
        """Number of views per sample."""

    @property
    def batch_size(self) -> int | None:
        """Number of samples, each with its own taps; None if all samples share the taps."""

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on `device`."""

    def repeat(self, times: int) -> Self:
        """Return the taps repeated `times` times along the batch; shared taps are returned unchanged."""


@dataclass(frozen=True, eq=False)
class MultiViewGeometry:
    """The taps of every resolution of a UNet, built by `MultiViewAdapter.geometry`.

    Attributes:
        levels: Taps of each resolution, finest first.
    """

    levels: tuple[Taps, ...]

    @property
    def num_views(self) -> int:
        """Number of views per sample."""
        return self.levels[0].num_views

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes, cached encodings included."""
        return _nbytes(self.levels)

    def to(self, device: torch.device | str) -> MultiViewGeometry:
        """Return a copy on `device`."""
        return MultiViewGeometry(tuple(level.to(device) for level in self.levels))

    def repeat(self, times: int) -> MultiViewGeometry:
        """Return the geometry repeated `times` times along the batch (2 for classifier-free guidance)."""
        return MultiViewGeometry(tuple(level.repeat(times) for level in self.levels))


class ViewAttention(nn.Module, ABC):
    """Base class of attention from the tokens of each view to the other views of the same sample.

    A derived class defines `build_taps` and `attend`, and may override `feed_forward`, `check_depth` and `taps_key`. It
    is constructed as `cls(channels, **init_args)`; settings are keyword-only arguments with JSON values, which an
    adapter's config stores.

    Args:
        channels: Channels C of the block's feature maps.
    """

    taps_type: ClassVar[type] = object
    """Class of the taps that `build_taps` returns; `forward` rejects others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.attention_enabled = True
        self.residual: nn.Module | None = None  # the adapter's residual block, where it has one

    @abstractmethod
    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[Taps]:
        """Build the taps of a batch, one per level (finest first).

        Args:
            batch: Cameras, `view_valid` and, if correspondences come from depth, `depths`. Without depths all views
                share one centre and all samples the same cameras, see `shared_cameras`.
            levels: Resolutions of the UNet, finest first.
        """

    @abstractmethod
    def attend(
        self,
        tokens: Tensor,
        taps: Any,
        view_valid: Tensor | None,
        neighbour_batch: Tensor | None,
        views: int,
    ) -> Tensor:
        """Return the update [B, V, T, C] that `forward` adds to the tokens.

        Args:
            tokens: [B, V, T, C] tokens of all views.
            taps: Taps of this resolution.
            view_valid: [B, V] bool, False for padding, which must not be attended to; None: all views are valid.
            neighbour_batch: [B] long, the sample whose views sample b attends to; None: b itself.
            views: Query views per sample to process at a time; fewer take less memory.
        """

    def check_depth(self) -> None:
        """Raise ValueError if a setting does not apply to views with depth."""

    def check_shared_centre(self) -> None:
        """Raise ValueError where a setting does not go with views that share a centre."""

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, V', T, C] after attention to the same shape, each token by itself.

        V' is the number of views in a chunk.
        """
        return tokens

    def taps_key(self, batch: MultiViewBatch, levels: Sequence[Level]) -> bytes | None:
        """Return a cache key for the taps of a batch; None if they must not be cached.

        The default is None for batches with depth. A class whose taps depend on more than cameras, levels and settings
        must override it.
        """
        if batch.depths is not None:
            return None
        return torch.cat(shared_cameras(batch), dim=-1).numpy().tobytes() + repr(list(levels)).encode()

    def forward(
        self,
        hidden_states: Tensor,
        taps: Taps,
        view_valid: Tensor | None = None,
        neighbour_batch: Tensor | None = None,
        views_per_chunk: int | None = None,
    ) -> Tensor:
        """Attend to the other views, then apply the feed-forward layer and the residual block.

        Args:
            hidden_states: [B, V, C, h, w] feature maps.
            taps: Taps of this resolution.
            view_valid: See `attend`.
            neighbour_batch: See `attend`; attending to another sample's views is a control experiment.
            views_per_chunk: Query views per chunk, counted over the whole batch; keys always come from all views.
                Chunks take less memory, but recompute the encodings. None: all at once.

        Returns:
            [B, V, C, h, w] in the dtype of `hidden_states`.

        Raises:
            ValueError: `taps` belong to another attention class, resolution, number of views or batch size.
        """
        if not isinstance(taps, self.taps_type):
            raise ValueError(
                f"taps of {type(self).__name__} must be {self.taps_type.__name__}; got {type(taps).__name__}. Build "
                "the geometry with this adapter."
            )
        batch, num_views, _, height, width = hidden_states.shape
        if (num_views, height, width) != (taps.num_views, taps.height, taps.width):
            raise ValueError(
                f"hidden_states must have {taps.num_views} views of {taps.height}x{taps.width} cells, as the geometry "
                f"has; got {num_views} views of {height}x{width}."
            )
        if taps.batch_size not in (None, batch):
            raise ValueError(
                f"hidden_states must have {taps.batch_size} samples, as the geometry has; got {batch}. For guidance, "
                "repeat the geometry."
            )
        views = num_views if views_per_chunk is None else max(1, views_per_chunk // batch)
        tokens = hidden_states.flatten(-2).transpose(-1, -2)
        if self.attention_enabled:
            tokens = tokens + self.attend(tokens.contiguous(), taps, view_valid, neighbour_batch, views)
        outputs = [self._after_attention(some, height, width) for some in tokens.split(views, dim=1)]
        output = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return output.to(hidden_states.dtype)

    def _after_attention(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Apply the feed-forward layer and the residual block: [B, V, T, C] -> [B, V, C, h, w]."""
        output = self.feed_forward(tokens).transpose(-1, -2).unflatten(-1, (height, width))
        if self.residual is not None:
            output = self.residual(output.flatten(0, 1)).unflatten(0, output.shape[:2])
        return output


def shared_cameras(batch: MultiViewBatch) -> tuple[Tensor, Tensor]:
    """Return K and R [V, 3, 3], shared by all samples of a batch, on the CPU.

    The cameras of padded views are ignored, so a sample may have fewer views than the others.

    Raises:
        ValueError: The samples have different cameras.
    """
    cameras, valid = torch.cat([batch.K, batch.R], dim=-1).cpu(), batch.view_valid.cpu()
    rig = cameras[valid.long().argmax(dim=0), torch.arange(batch.num_views)]  # per view, from a sample that has it
    if not bool((cameras == rig)[valid].all()):
        raise ValueError(
            "samples of a batch must share their cameras; got different cameras. Set data.batch_size to 1."
        )
    K, R = rig.clone().split(3, dim=-1)
    return K.contiguous(), R.contiguous()


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return _nbytes(tuple(value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return _nbytes(vars(value)) if hasattr(value, "__dict__") else 0
