"""Pipelines: generate images with a trained model.

Import from the modules: `panorama`, `outpaint` and `depth` (one pipeline per task, on top of `base`), `two_stage`
(sequences of any length), `model_folder` (reading and writing model folders), `checkpoint` (exporting a training
checkpoint to a model folder), `schedulers` (any diffusers scheduler by name), `prompt_files` (forms and files of
prompts), `sample_folders` and `sequence_folders` (writing many samples, resumable).
"""
