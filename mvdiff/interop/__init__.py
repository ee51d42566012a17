"""The 2023 release ("upstream"): its attention, taps and geometry, and the conversion of its checkpoints.

Only `mvdiff convert` imports this package; converted adapters refer to its attention by class_path
(docs/checkpoints.md).
"""
