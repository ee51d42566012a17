"""Models: attention across views, the UNet it sits in, and the base it is put on.

Import from the modules: `attention`, `adapter`, `multiview_unet`, `backbone`.
"""
