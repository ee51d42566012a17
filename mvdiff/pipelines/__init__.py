"""Pipelines: what a user calls to generate images with a trained model.

Import from the modules: `panorama` (the pipeline), `model_folder` (what training leaves and a pipeline loads),
`checkpoint` (a training checkpoint into such a folder), `schedulers` (any diffusers scheduler by name), `prompts`
(their forms and files) and `sample_folders` (many samples into folders, resumable).
"""
