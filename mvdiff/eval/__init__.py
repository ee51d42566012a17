"""Metrics, protocols and the runner over sample folders; knows images and cameras, nothing of models that generate.

Each metric is plain functions over tensors with, where it accumulates, a thin class around them. `runner.evaluate`
scores folders with all of them; the model, its weight hash and the protocol's variant stand beside every number.
"""
