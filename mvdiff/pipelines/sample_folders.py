"""Batches into sample folders, generated or real, for every task; a rerun goes on where the last one stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.weights import tensors_hash
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.panorama import stitched
from mvdiff.pipelines.sampling import PAPER_SAMPLING
from mvdiff.samples import SampleRecord, camera_record, is_complete, read_sample, sample_folder, to_uint8, write_sample
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS, Task


@dataclass(frozen=True)
class GenerationCounts:
    """Numbers of samples that a run wrote, and that were complete before."""

    written: int
    skipped: int


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape images, for `sample.json`."""
    return {name: version(name) for name in ("mvdiff", "torch", "diffusers", "transformers")}


def generate_samples(
    pipeline: MultiViewPipeline,
    batch: MultiViewBatch,
    out: str | Path,
    *,
    rig: Rig | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    sampling: Sampling = PAPER_SAMPLING,
    controls: Controls = NO_CONTROLS,
    paste_back: bool = True,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> GenerationCounts:
    """Generate the samples of a batch and write a folder each; padding is left out.

    Complete samples of the same prompts, cameras, seed, precision and settings are left as they are. All folders are
    checked before the first sample is generated. `sampling`, `controls` and `paste_back` are arguments of
    `SamplingPipeline.generate`, the others and the errors are those of `write_samples`.

    Args:
        rig: The views, for tasks whose views are a rig; default the pipeline's.
        batch_size: Samples generated at once, which changes images by float rounding only; default all.
    """

    def generate(rows: MultiViewBatch) -> Tensor:
        put_back = paste_back and pipeline.task.paste_back
        return pipeline.generate(rows, sampling, seed=seed, controls=controls, paste_back=put_back).images

    return write_samples(
        batch,
        out,
        generate,
        task=pipeline.task,
        rig=pipeline.views.get("rig") if rig is None else rig,
        seed=seed,
        batch_size=batch_size,
        settings=described_settings(pipeline, sampling, controls, paste_back) | dict(settings or {}),
        overwrite=overwrite,
    )


def write_samples(
    batch: MultiViewBatch,
    out: str | Path,
    generate: Callable[[MultiViewBatch], Tensor],
    *,
    task: Task | None = None,
    rig: Rig | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> GenerationCounts:
    """Write the images that a function makes of a batch as sample folders; see `generate_samples`.

    Args:
        batch: Prompts, cameras and what is given.
        out: Root of the sample folders.
        generate: Called with some samples of the batch, returns their views [B, V, 3, H, W] in [-1, 1] on the CPU.
        task: Task that describes what a sample was given; None: nothing.
        rig: The views, for views that are a rig; they are stitched to a panorama.
        seed: Seed to note; None for images that were not sampled.
        batch_size: Samples of one call; default all.
        settings: More to note in `sample.json`, compared on a rerun too.
        overwrite: Make complete samples again.

    Raises:
        ValueError: A complete sample was made with other prompts, cameras, seed or settings.
        OSError: The folder cannot be written; samples that are complete stay.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    todo = []
    for i in range(batch.batch_size):
        given, pixels = ({}, None) if task is None else task.describe_given(batch, i)
        record = replace(sample_record(batch, i, rig), seed=seed, settings=dict(settings or {}) | given)
        if overwrite or not is_done(sample_folder(out, record.sample_id), record):
            todo.append((i, record, pixels))
    for start in range(0, len(todo), batch_size or max(1, len(todo))):
        part = todo[start : start + (batch_size or len(todo))]
        images = generate(batch.rows([i for i, _, _ in part]))
        panoramas = [None] * len(part) if rig is None else _uint8(stitched(images, rig)[0])
        for (i, record, pixels), views, panorama in zip(part, _uint8(images), panoramas, strict=True):
            write_views(sample_folder(out, record.sample_id), record, batch, i, views, panorama, pixels, overwrite)
    return GenerationCounts(written=len(todo), skipped=batch.batch_size - len(todo))


def write_reference(
    batch: MultiViewBatch, out: str | Path, *, rig: Rig | None = None, overwrite: bool = False
) -> GenerationCounts:
    """Write the real views of a batch, a sample folder each; folders that hold these very views are kept.

    Raises:
        ValueError: A complete folder holds other views, prompts or cameras, and `overwrite` is False.
        OSError: The folder cannot be written.
    """
    written = 0
    for i, views in enumerate(_uint8(batch.images.cpu())):
        record = sample_record(batch, i, rig)
        folder = sample_folder(out, record.sample_id)
        valid = batch.view_valid[i].cpu()
        if not overwrite and is_done(folder, record):
            if not torch.equal(read_sample(folder).images_uint8().movedim(1, -1), views[valid]):
                raise ValueError(
                    f"views of a complete sample must be those of the data; got other pixels, in {folder}."
                )
            continue
        write_views(folder, record, batch, i, views, None, None, overwrite)
        written += 1
    return GenerationCounts(written=written, skipped=batch.batch_size - written)


def sample_record(batch: MultiViewBatch, index: int, rig: Rig | None) -> SampleRecord:
    """Describe a sample of a batch without its padding: prompts, rig or cameras, versions."""
    valid = batch.view_valid[index].cpu()
    prompts = [prompt for prompt, kept in zip(batch.prompts[index], valid.tolist(), strict=True) if kept]
    record = SampleRecord(batch.sample_id[index], prompts, versions=library_versions())
    if rig is not None:
        return replace(record, rig=rig.to_dict())
    cameras = (value[index].cpu()[valid] for value in (batch.K, batch.R, batch.t))
    return replace(record, cameras=camera_record(*cameras, *batch.images.shape[-2:]))


def write_views(
    folder: Path,
    record: SampleRecord,
    batch: MultiViewBatch,
    index: int,
    views: Tensor,
    panorama: Tensor | None,
    given: Tensor | None,
    overwrite: bool,
) -> None:
    """Write one sample of a batch without its padding: uint8 views [V, H, W, 3], and depths where there are any."""
    valid = batch.view_valid[index].cpu()
    depths = None if batch.depths is None else batch.depths[index].cpu()[valid]
    given = None if given is None else given[valid]
    write_sample(folder, record, views[valid], panorama, overwrite=overwrite, depths=depths, given=given)


def described_settings(
    pipeline: MultiViewPipeline,
    sampling: Sampling = PAPER_SAMPLING,
    controls: Controls = NO_CONTROLS,
    paste_back: bool = True,
) -> dict[str, Any]:
    """Describe, in JSON, what shapes an image besides prompt, cameras and seed."""
    base, control = pipeline.base, asdict(controls)
    if control["neighbour_batch"] is None:
        del control["neighbour_batch"]
    described = {
        **asdict(sampling),
        **control,
        **({"paste_back": paste_back} if pipeline.task.paste_back else {}),
        "prompt_prefix": pipeline.prompt_prefix,
        "scheduler": type(pipeline.scheduler).__name__,
        "scheduler_config": {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")},
        "base": None if base is None else base.id,
        "base_weights_hash": None if base is None else base.weights_hash,
        "adapter_weights_hash": tensors_hash(pipeline.adapter_weights()),
        "dtype": _precision(pipeline),
        **pipeline.unusual_settings(),
    }
    return json.loads(json.dumps(described, default=_plain))


def is_done(folder: Path, record: SampleRecord) -> bool:
    """Tell whether a folder holds this very sample already.

    Raises:
        ValueError: It holds a complete sample of other prompts, cameras, seed or settings.
    """
    if not is_complete(folder):
        return False
    found = read_sample(folder).record
    for name in ("prompts", "seed", "rig", "cameras", "settings"):
        there, wanted = getattr(found, name), getattr(record, name)
        if there == wanted:
            continue
        while isinstance(wanted, dict) and isinstance(there, dict):
            key = next(key for key in (*wanted, *there) if there.get(key) != wanted.get(key))
            name, there, wanted = f"{name}.{key}", there.get(key), wanted.get(key)
        raise ValueError(
            f"{name} of a complete sample must be those of this run, {_short(wanted)}; got {_short(there)}, in "
            f"{folder}. Write to another folder, or pass --overwrite to generate it again."
        )
    return True


def _uint8(images: Tensor) -> Tensor:
    return to_uint8(images.movedim(-3, -1))


def _precision(pipeline: MultiViewPipeline) -> str:
    """Name the precision of the weights and, where it is active, of autocast: images depend on both."""
    device = pipeline._execution_device.type
    precision = str(pipeline.unet.dtype)
    if torch.is_autocast_enabled(device):
        precision += f" under {torch.get_autocast_dtype(device)} autocast"
    return precision.replace("torch.", "")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return str(value) if isinstance(value, torch.dtype | Path) else repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"
