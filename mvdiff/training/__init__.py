"""LightningModules, their callbacks and caches, and the bridge from launchers to the Trainer.

- `MultiViewModule` (multi_view.py): trains attention across views on a frozen base, for any task.
- `SingleViewModule` (single_view.py): trains or finetunes a base on single views, for any task.
- `inputs`: from a batch to latents and text embeddings, keyed and cached.
- `model_description`, `sample_writing`: the model's description in checkpoints; samples of test and predict.
- `optimization`: optimizer and schedule, gradient accumulation from a total batch size.
- `TrainedWeightsEMA` (ema.py), `callbacks`: average of the trained weights, model folder at the end, image logging.
- `cache`: text embeddings and latents on disk.
- `launch`: `fabric run`, torchrun and plain processes all train as one job.

Import from the modules: the package itself imports nothing.
"""
