"""Metrics, protocols and the runner over sample folders; knows images and cameras, nothing of models that generate.

The mathematics is plain functions over tensors. `metrics/` has one class per metric over them, `metric` their base,
`sources` the samples, and `runner.evaluate` scores folders. The model, its weight hash and the protocol's variant stand
beside every number.
"""
