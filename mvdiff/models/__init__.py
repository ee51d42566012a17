"""Models: the correspondence-aware attention, the UNet it sits in, and the base it is put on.

Import from the modules: `attention`, `adapter`, `multiview_unet`, `geometry_cache`, `backbone`, `reference`, and, for
published checkpoints, those of `upstream`.
"""
