"""Training: LightningModules, callbacks, caches, and the settings that process launchers imply.

- `MultiViewModule` (multi_view.py): trains attention across views on a frozen base, for any task.
- `SingleViewModule` (single_view.py): trains or finetunes a base on single views, for any task.
- `ControlNetModule` (controlnet.py): trains a depth ControlNet for a base.
- `inputs`: latents and text embeddings of a batch, keyed and cached.
- `model_description`, `sample_writing`: the model's description in checkpoints; the samples of test and predict.
- `optimization`: optimizer and schedule, gradient accumulation from a total batch size.
- `TrainedWeightsEMA` (ema.py), `callbacks`: average of the trained weights, model folder at the end, image logging.
- `cache`: disk cache of text embeddings and latents.
- `launch`: makes the processes of `fabric run`, torchrun or a plain start train as one job.

Import from the modules: the package itself imports nothing.
"""
