"""Inception Score on the toy feature network, comparable only with other toy scores."""

from __future__ import annotations

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.metric import Column
from mvdiff.eval.metrics.inception_score import InceptionScore


class ToyInceptionScore(InceptionScore):
    """Inception Score with the logits of the toy feature network."""

    name = "toy_inception_score"
    columns = (Column("toy_inception_score", "toy IS", "toy-features", higher_is_better=True),)
    load_network = staticmethod(toy_extractor)
