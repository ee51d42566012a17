"""Metrics, protocols and the evaluation runner. The package depends on images and cameras, not on generating models.

`metrics/` has one file per metric, `metric` their base class, `sources` the samples to score, and `runner.evaluate`
scores folders. Every result records the measuring model, its weight hash and the variant of the protocol.
"""
