"""FID on the toy feature network, comparable only with other toy FIDs."""

from __future__ import annotations

from typing import Any

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.fid import FID


class ToyFID(FID):
    """FID with the toy feature network.

    Args:
        fid_resamples: Bootstrap resamples, see `intervals` of `FID`.
        **options: See `FID`.
    """

    name = "toy_fid"
    columns = (Column("toy_fid", "toy FID", "toy-features", higher_is_better=False),)
    load_network = staticmethod(toy_extractor)

    def __init__(self, *, fid_resamples: int = 0, **options: Any) -> None:
        super().__init__(intervals=fid_resamples, **options)
