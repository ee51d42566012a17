"""The base of every attention across views, and what it knows of cameras.

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
        stride: Pixels per cell.
    """

    height: int
    width: int
    stride: int


class Taps(Protocol):
    """Where the tokens of one resolution look in the other views; what else it holds is up to the attention class."""

    height: int
    width: int

    @property
    def num_views(self) -> int:
        """Views of a sample."""

    @property
    def batch_size(self) -> int | None:
        """Samples with taps of their own; None for taps that serve any sample."""

    def to(self, device: torch.device | str) -> Self:
        """Return the taps on a device."""

    def repeat(self, times: int) -> Self:
        """Return the taps of the same samples, `times` times over; taps that serve any sample stay as they are."""


@dataclass(frozen=True, eq=False)
class MultiViewGeometry:
    """The taps of every resolution of a UNet, finest first; `MultiViewAdapter.geometry` builds it."""

    levels: tuple[Taps, ...]

    @property
    def num_views(self) -> int:
        """Views of a sample."""
        return self.levels[0].num_views

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, with those kept beside the taps, as encodings."""
        return _nbytes(self.levels)

    def to(self, device: torch.device | str) -> MultiViewGeometry:
        """Return a copy on `device`."""
        return MultiViewGeometry(tuple(level.to(device) for level in self.levels))

    def repeat(self, times: int) -> MultiViewGeometry:
        """Return the geometry of the same samples, `times` times over (2 for classifier-free guidance)."""
        return MultiViewGeometry(tuple(level.repeat(times) for level in self.levels))


class ViewAttention(nn.Module, ABC):
    """Attention of the tokens of each view to the other views of its sample.

    A derived class is made as `cls(channels, **init_args)`. Its settings are keyword-only arguments with JSON values;
    an adapter's config holds them. It defines `build_taps` and `attend`, and may define `feed_forward`.

    Args:
        channels: Channels C of the block's feature maps.
    """

    taps_type: ClassVar[type] = object
    """Class of the taps that `build_taps` returns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.attention_enabled = True
        self.residual: nn.Module | None = None  # the adapter's residual block, where it has one

    @abstractmethod
    def build_taps(self, batch: MultiViewBatch, levels: Sequence[Level]) -> list[Taps]:
        """Build the taps of a batch, one per level (finest first).

        The batch has cameras, `view_valid` and, where correspondences come from depth, `depths`. Views without depth
        share a centre, and the samples share their cameras: see `shared_cameras`.
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
        """Return what attention adds to the tokens [B, V, T, C], in the same shape.

        Args:
            tokens: Tokens of all views.
            taps: The taps of this resolution.
            view_valid: [B, V] bool; padding is never attended to. None: all valid.
            neighbour_batch: [B] long, the sample whose views are the neighbours of sample b. None: b itself.
            views: Views of each sample to handle at a time, which takes less memory.
        """

    def check_depth(self) -> None:
        """Raise ValueError where a setting does not go with views with depth."""

    def check_shared_centre(self) -> None:
        """Raise ValueError where a setting does not go with views that share a centre."""

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, V', T, C] of some views, after attention, one by one."""
        return tokens

    def taps_key(self, batch: MultiViewBatch, levels: Sequence[Level]) -> bytes | None:
        """Return a key of all that taps depend on beside the settings; None for a sample's own taps, never kept."""
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
        """Return `hidden_states` with the information of the other views added.

        Args:
            hidden_states: [B, V, C, h, w] feature maps.
            taps: Taps of this resolution.
            view_valid: See `attend`.
            neighbour_batch: See `attend`. (A control: another sample's views tell nothing true.)
            views_per_chunk: Query views per chunk, counted over the batch; keys always come from all views. Less
                memory, but encodings are computed again for each chunk. None: all at once.

        Returns:
            [B, V, C, h, w] in the dtype of `hidden_states`.

        Raises:
            ValueError: The size or the number of views is not that of `taps`, or they are another class's.
        """
        if not isinstance(taps, self.taps_type):
            raise ValueError(
                f"taps must be {self.taps_type.__name__}, as {type(self).__name__} builds them; got "
                f"{type(taps).__name__}. Build the geometry with this adapter."
            )
        batch, num_views, _, height, width = hidden_states.shape
        if (num_views, height, width) != (taps.num_views, taps.height, taps.width):
            raise ValueError(
                f"hidden_states must have {taps.num_views} views of {taps.height}x{taps.width} cells as its geometry; "
                f"got {num_views} views of {height}x{width}."
            )
        if taps.batch_size not in (None, batch):
            raise ValueError(
                f"hidden_states must be of {taps.batch_size} samples as their geometry; got {batch}. For guidance, "
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
        """Feed forward and residual block, view by view: [B, V, T, C] -> [B, V, C, h, w]."""
        output = self.feed_forward(tokens).transpose(-1, -2).unflatten(-1, (height, width))
        if self.residual is not None:
            output = self.residual(output.flatten(0, 1)).unflatten(0, output.shape[:2])
        return output


def shared_cameras(batch: MultiViewBatch) -> tuple[Tensor, Tensor]:
    """Return the cameras that all samples of a batch share, on the CPU: K and R [V, 3, 3].

    Padded views have no cameras: a sample of fewer views may share a batch with one whose first views are its own.

    Raises:
        ValueError: The samples have different cameras.
    """
    cameras, valid = torch.cat([batch.K, batch.R], dim=-1).cpu(), batch.view_valid.cpu()
    rig = cameras[valid.long().argmax(dim=0), torch.arange(batch.num_views)]  # each view of a sample that has it
    if not bool((cameras == rig)[valid].all()):
        raise ValueError("samples of a batch must share their cameras; got different ones. Set data.batch_size to 1.")
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
