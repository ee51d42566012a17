"""Step of a panorama across its wrap, over its mean step between neighbouring columns (own protocol)."""

from __future__ import annotations

from torch import Tensor

from mvdiff.eval.metric import Column, PerSampleMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.shapes import check_shapes


class WrapRatio(PerSampleMetric):
    """Step across the wrap over the mean step between columns; about 1 if the wrap is like any other place.

    Panoramas whose columns are all alike have no number. Panoramas stitched from views have no wrap of their own.
    """

    name = "wrap_ratio"
    columns = (Column("wrap_ratio", "wrap ratio"),)
    model = "absolute differences"
    variant = "panorama.png at its own size, mean over rows and channels, then samples"

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Measure a sample's panorama.

        Raises:
            ValueError: The sample has no panorama.
        """
        ratio = wrap_ratio(sample.panorama_uint8)
        return {} if ratio is None else {"wrap_ratio": ratio}


def wrap_ratio(panorama: Tensor) -> float | None:
    """Divide the mean absolute difference of the last and the first column by that of all neighbouring columns.

    Args:
        panorama: [3, H, W], uint8 or float.

    Returns:
        The ratio; None if all columns are equal.

    Example:
        >>> import torch
        >>> [wrap_ratio(torch.tensor(columns).expand(3, 2, 4)) for columns in ([0, 1, 2, 1], [0, 1, 2, 3])]
        [1.0, 3.0]
    """
    check_shapes(panorama=(panorama, "3 H W"))
    values = panorama.double()
    mean_step = float(values.diff(dim=-1).abs().mean())
    across = float((values[..., 0] - values[..., -1]).abs().mean())
    return across / mean_step if mean_step else None
