"""The 2023 release ("upstream"): its attention, taps and geometry, its checkpoints, and their conversion.

Nothing else of the package imports it but `mvdiff convert`; converted adapters name its attention by class_path
(docs/checkpoints.md).
"""
