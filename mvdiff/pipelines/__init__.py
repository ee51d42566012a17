"""Pipelines: what a user calls to generate images with a trained model.

Import from the modules: `panorama`, `outpaint` and `depth` (faces of `base`), `two_stage` (sequences of any length),
`model_folder` (what training leaves and a pipeline loads), `checkpoint` (a training checkpoint into such a folder),
`schedulers` (any diffusers scheduler by name), `prompt_files` (forms and files of prompts), `sample_folders` and
`sequence_folders` (many samples into folders, resumable).
"""
