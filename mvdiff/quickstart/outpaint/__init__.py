"""The outpainting quickstart: panoramas around a given view, scored and shown on a page."""
