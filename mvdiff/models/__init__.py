"""Models: attention across views, the multi-view UNet that runs it, and the frozen base.

Import from the modules: `attention`, `adapter`, `multiview_unet`, `backbone`.
"""
