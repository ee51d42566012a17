"""Training from a cache of text embeddings alone: the text encoder of a base, of up to 20 GB, is not loaded.

`fill` embeds every prompt of a run, and records in the cache which files the text encoder was read from and the hash of
its weights. A run with `cache.text_only` takes both from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.panoramas import mirrored_caption
from mvdiff.files.text import read_json_object
from mvdiff.files.writing import write_whole
from mvdiff.training.inputs import BatchInputs
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.text_record import RECORD, encoder_files


def fill(
    model: MultiViewModule,
    data: MultiViewDataModule,
    device: torch.device,
    autocast: torch.dtype | None = None,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> int:
    """Embed every prompt of a run into its cache; those that it has are skipped.

    Args:
        model: Model of the run, with `cache.dir`.
        data: Data of the run.
        device: Device of the text encoder.
        autocast: Precision of the run's autocast; None: the weights' own.
        progress: Iterates over the prompts and shows how many are done.

    Returns:
        The number of prompts.

    Raises:
        ValueError: The run has no cache.
    """
    if model.cache.dir is None:
        raise ValueError("model.cache.dir must be a folder, to keep the text in; got null.")
    model.configure_model()
    base = model.backbone
    base.text_encoder.to(device)
    inputs: BatchInputs = model.inputs
    texts = run_texts(data, model.prompt_prefix)
    negative = model.sampling.negative_prompt
    negatives = [negative] if isinstance(negative, str) else list(negative or [""])
    on = {"dtype": autocast or torch.bfloat16, "enabled": autocast is not None}
    with torch.autocast(device.type, **on), torch.autocast("cpu", **on):  # names of entries follow the network's device
        for text in progress(texts):
            inputs.embed([text], device)
        for text in dict.fromkeys(negatives):
            inputs.embed([text], device, negative=True)
    record, path = {}, Path(model.cache.dir) / RECORD
    with suppress(FileNotFoundError):
        record = read_json_object(path)
    record[encoder_files(model.base, model.revision)] = base.weights_hashes(["text_encoder"])["text_encoder"]
    write_whole(path, json.dumps(record, indent=2) + "\n")
    return len({*texts, *negatives})


def run_texts(data: MultiViewDataModule, prefix: str) -> list[str]:
    """Return the distinct prompts that a run can ask for: those of its data with the prefix, and the empty one."""
    datasets = [data.train_dataset(), *([data.val_dataset()] if data.num_val else [])]
    with suppress(FileNotFoundError):
        datasets.append(data.test_dataset())
    texts = [prefix + caption for dataset in datasets for caption in _captions(dataset)]
    return list(dict.fromkeys(["", *texts]))


def _captions(dataset: Any) -> Iterator[str]:
    """Yield the captions that samples of a data set may have; of data sets of one's own, those of the first epoch."""
    if hasattr(getattr(dataset, "source", None), "captions"):
        for index in range(len(dataset.source)):
            for caption in dataset.source.captions(index).values():
                yield caption
                yield mirrored_caption(caption)
    elif hasattr(dataset, "scenes"):
        for scene in dataset.scenes:
            yield from map(scene.prompt, scene.valid_frames)
    else:
        for index in range(len(dataset)):
            yield from dataset[index]["prompts"]
