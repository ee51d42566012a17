"""Thing colours: whether things of toy walks have the colour of their caption where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mvdiff.eval.metric import Column, MissingMetricError, PerSampleMetric, Result
from mvdiff.eval.sources import ScoredSample
from mvdiff.eval.thing_colours import MIN_FRACTION, colour_agreement


class ThingColours(PerSampleMetric):
    """Share of things whose middle pixel has the captioned colour.

    Args:
        things: By sample id: number of the thing at each pixel, long [V, H, W], and colours by number.
        **options: See `SampleMetric`.
    """

    name = "thing_colours"
    columns = (Column("thing_colours", "things of the captioned colour", "share", higher_is_better=True, digits=3),)
    needs: ClassVar = {
        "things": "no sample's things are known. Pass `things` from Python, as the depth quickstart does."
    }
    model = "ray-traced places"
    variant = (
        f"share of things, of at least {100 * MIN_FRACTION:.0f} % of a frame, whose middle pixel has the captioned "
        "colour; mean of samples"
    )
    totals = ("num_things",)

    def __init__(self, *, things: Mapping[str, tuple[Tensor, Sequence[str]]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.things = things or {}

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Read the colours of a sample's things; a sample without known things has no number."""
        if sample.sample_id not in self.things:
            return {}
        verdicts = colour_agreement(sample.images_uint8, *self.things[sample.sample_id])
        return {"thing_colours": float(np.mean(verdicts)), "num_things": len(verdicts)} if verdicts else {}

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples."""
        if not self.rows("numbers", real=False).samples:
            raise MissingMetricError(self.needs["things"])
        return super().compute()
