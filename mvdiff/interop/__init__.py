"""The 2023 release ("upstream"): its attention, taps and geometry, its checkpoints, and their conversion.

Only `mvdiff convert` imports it; converted adapters name its attention by class_path (docs/checkpoints.md).
"""
