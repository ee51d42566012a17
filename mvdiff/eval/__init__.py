"""Metrics, protocols and the runner over sample folders; it knows images and cameras, nothing of generating models.

`metrics/` has a file per metric, `metric` their base, `sources` the samples, and `runner.evaluate` scores folders. The
model, its weight hash and the protocol's variant stand beside every number.
"""
