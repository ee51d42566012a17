"""KID: kernel distance between Inception features; unlike FID's, its estimate is unbiased for any number of images.

The distance is an own implementation, because that of torchmetrics needs sets of equal size; both agree there.

Axes: N, M images, D features.
"""

from __future__ import annotations

from torch import Tensor

from mvdiff.eval.metric import Column, check_finite
from mvdiff.eval.metrics.fid import FID
from mvdiff.shapes import check_shapes


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Compute KID, the unbiased squared MMD with kernel `(x y / D + 1)^3`, over all images (Binkowski et al. 2018).

    The usual mean over random subsets estimates the same number with more noise.

    Args:
        features: [N, D] features of the generated images.
        reference: [M, D] features of the reference images.

    Returns:
        The estimate; may be slightly negative.

    Raises:
        ValueError: Shapes do not match, a set has fewer than two images, or a value is not finite.
    """
    sizes = check_shapes(features=(features, "N D"), reference=(reference, "M D"))
    if min(sizes["N"], sizes["M"]) < 2:
        raise ValueError(f"features must come from at least 2 images; got {sizes['N']} and {sizes['M']}.")
    check_finite(features=features, reference=reference)
    own, real = features.double(), reference.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / sizes["D"] + 1) ** 3

    def mean_of_others(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(mean_of_others(own) + mean_of_others(real) - 2 * kernel(own, real).mean())


class KID(FID):
    """Kernel distance between the network features of generated and reference views; shares FID's forward pass."""

    name = "kid"
    columns = (Column("kid", "KID", higher_is_better=False, digits=4),)
    distance = staticmethod(kernel_distance)
    estimator = "unbiased squared MMD of all images, cubic kernel, float64"
    biased = False
