"""DeepCache (Ma et al. 2024): between denoising steps, reuse what the deep part of a UNet computed.

Deep features change slowly from step to step. The deep part runs in every `interval`-th call of the UNet; the calls in
between run the shallow part alone, its attention across views included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class DeepCacheSettings:
    """Settings of a `DeepCache`.

    Args:
        interval: The deep part runs in every `interval`-th call; 1: in all calls.
        depth: Number of skip connections in the shallow part, counted from the UNet's input, at least 1. With 1, the
            shallow part is the first convolution and the last layer; each further one adds a layer on either side.

    Raises:
        ValueError: A setting is not a whole number of at least 1.
    """

    interval: int
    depth: int

    def __post_init__(self) -> None:
        for name, value in (("interval", self.interval), ("depth", self.depth)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of the deep cache must be a whole number from 1; got {value!r}.")


@dataclass
class DeepCache:
    """Output of the deep part of a UNet, kept during one denoising; an argument of `MultiViewUNet.forward`.

    Args:
        settings: Interval and depth.
    """

    settings: DeepCacheSettings
    _reuses: bool = field(default=False, init=False)
    _kept: Tensor | None = field(default=None, init=False, repr=False)
    _calls: int = field(default=0, init=False)

    def begin(self, num_rows: int) -> bool:
        """Begin a call of the UNet on `num_rows` views; return True if it reuses the deep part.

        After a call with another number of views, everything is computed.
        """
        fits = self._kept is not None and len(self._kept) == num_rows
        self._reuses = fits and self._calls < self.settings.interval
        self._calls = self._calls + 1 if self._reuses else 1
        return self._reuses

    def exchange(self, hidden_states: Tensor | None) -> Tensor:
        """Keep the output of the deep part, [N, C, h, w], or return what an earlier call kept."""
        if not self._reuses:
            self._kept = hidden_states
        return self._kept
