"""KID: the kernel distance of Inception features, which unlike FID does not depend on the number of images."""

from __future__ import annotations

from mvdiff.eval.distribution import kernel_distance
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.fid import FID


class KID(FID):
    """Kernel distance over the features of a network; FID's features, one pass for both."""

    name = "kid"
    columns = (Column("kid", "KID", higher_is_better=False, digits=4),)
    distance = staticmethod(kernel_distance)
    estimator = "unbiased squared MMD of all images, cubic kernel, float64"
    biased = False
