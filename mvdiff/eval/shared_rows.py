"""Several distances from the rows of one metric, so that its network runs once."""

from __future__ import annotations

from typing import Any

from mvdiff.eval.metric import Result, SampleMetric
from mvdiff.eval.set_distance import SetDistance


def distance_of_rows(metric: SampleMetric, rows: str, kind: type[SetDistance], **options: Any) -> Result:
    """Compute a distance between the generated and the real rows of a metric.

    Args:
        metric: Metric with a network and rows of its features, see `SampleMetric.add_rows`.
        rows: Name of the rows.
        kind: Metric of the distance: `FID` or `KID`.
        **options: Further options of that metric.

    Raises:
        MissingMetricError: There are no real rows.
    """
    part = kind(network=metric.network, seed=metric.seed, num_resamples=metric.num_resamples, **options)
    for real in (False, True):
        for own, state in zip(part.states("features", real), metric.states(rows, real), strict=True):
            setattr(part, own, getattr(metric, state))
    part.sample_ids = metric.sample_ids
    (result,) = kind.compute(part).values()  # the class's function: torchmetrics' wrapper would synchronise again
    return result
