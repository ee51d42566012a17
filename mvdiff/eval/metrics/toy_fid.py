"""FID on the toy feature network, comparable only with other toy FIDs."""

from __future__ import annotations

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.fid import FID


class ToyFID(FID):
    """FID with the toy feature network."""

    name = "toy_fid"
    columns = (Column("toy_fid", "toy FID", "toy-features", higher_is_better=False),)
    load_network = staticmethod(toy_extractor)
