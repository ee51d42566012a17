"""Pipelines: what a user calls to generate images with a trained model.

Import from the modules: `panorama` (the pipeline), `model_folder` (what training leaves and a pipeline loads),
`schedulers` (any diffusers scheduler by name) and `sample_folders` (many samples into folders, resumable).
"""
