"""Discontinuity Score of panoramas: edges at the wrap against edges beside it (Christensen et al. 2024).

Source: "Geometry Fidelity for Spherical Images" (ECCV 2024, arXiv 2407.18207), one seam of the equirectangular image.
With a the last three and the first three columns side by side, â its response to the horizontal Scharr kernel (four
columns, 1 to 4; the seam is between 2 and 3) and L rows,

    DS = 1 / (2 L) * sum over rows y of ( |â(2, y)| / (|â(1, y)| + c) + |â(3, y)| / (|â(4, y)| + c) ).

The number means nothing without c: here c = 1 / 255 for grey values in [0, 1]. Settled here, since the paper's code is
not public: grey is the mean of the channels, the kernel is scaled to give the slope per pixel, and the first and last
row are repeated. So a flat panorama with a step of s levels (of 255) at its wrap has DS = s / 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.eval.metric import Column, PerSampleMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.shapes import check_shapes

CONSTANT = 1 / 255
"""The constant c, for grey values in [0, 1]."""


class DiscontinuityScore(PerSampleMetric):
    """Discontinuity Score at the wrap of panoramas. Panoramas stitched from views have no wrap of their own."""

    name = "ds"
    columns = (Column("ds", "Discontinuity Score", higher_is_better=False, digits=3),)
    model = "Scharr kernel"
    variant = "wrap of panorama.png at its own size, grey in [0, 1], c = 1/255, mean over samples"

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Measure a sample's panorama.

        Raises:
            ValueError: The sample has no panorama.
        """
        return {"ds": discontinuity_score(sample.panorama_uint8)}


def discontinuity_score(panorama: Tensor, c: float = CONSTANT) -> float:
    """Compute the Discontinuity Score of a panorama; the module's docstring gives the formula.

    Args:
        panorama: [3, H, W] uint8, W at least 6.
        c: Constant that keeps the quotients finite.

    Example:
        >>> flat = torch.full((3, 4, 8), 100, dtype=torch.uint8)
        >>> flat[..., :4] += 6
        >>> round(discontinuity_score(flat), 6)
        3.0
    """
    check_shapes(panorama=(panorama, "3 H W"))
    grey = panorama.double().mean(dim=0) / 255
    seam = torch.cat([grey[:, -3:], grey[:, :3]], dim=1)[None, None]
    kernel = torch.outer(seam.new_tensor([3, 10, 3]), seam.new_tensor([-1, 0, 1])) / 32
    edges = F.conv2d(F.pad(seam, (0, 0, 1, 1), mode="replicate"), kernel[None, None]).abs()[0, 0]
    beside, before, after, beyond = edges.unbind(dim=1)
    return float((before / (beside + c) + after / (beyond + c)).mean() / 2)
