"""Upstream's model and its published checkpoints: attention, taps, key names, safe reading (docs/checkpoints.md)."""
