"""Write batches, generated or real, to sample folders, for every task; a rerun skips samples that are complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.weights import tensors_hash
from mvdiff.files.paths import ignores_case
from mvdiff.files.sharing import shared_name
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.panorama import stitched
from mvdiff.pipelines.sampling import PAPER_SAMPLING
from mvdiff.samples import (
    SampleRecord,
    camera_record,
    check_sample_folder,
    is_complete,
    read_sample,
    sample_folder,
    to_uint8,
    write_sample,
)
from mvdiff.samples.ids import check_ids
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS, Task

TEXT_NOTES = "text_notes"
"""Key in the settings of `sample.json`, see `mvdiff.models.prompts.text_notes`."""


@dataclass(frozen=True)
class GenerationCounts:
    """Numbers of samples that a run wrote, and that it skipped because they were complete."""

    written: int
    skipped: int


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that affect images, for `sample.json`."""
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
    """Generate the samples of a batch and write one folder per sample, without padding.

    Complete samples with the same prompts, cameras, seed, precision and settings are skipped. All folders are checked
    before the first sample is generated. For `sampling`, `controls` and `paste_back` see `SamplingPipeline.generate`;
    for other arguments and errors see `write_samples`.

    Args:
        rig: Rig of the views, for tasks whose views are a rig; default: the pipeline's.
        batch_size: Samples to generate at once, which changes images by float rounding only; default: all.
    """

    valid = zip(chain.from_iterable(batch.prompts), batch.view_valid.flatten().tolist(), strict=True)
    pipeline.warn_of_texts([prompt for prompt, is_valid in valid if is_valid], sampling)

    def generate(rows: MultiViewBatch) -> tuple[Tensor, None]:
        put_back = paste_back and pipeline.task.paste_back
        return pipeline.generate(rows, sampling, seed=seed, controls=controls, paste_back=put_back).images, None

    return write_samples(
        batch,
        out,
        generate,
        task=pipeline.task,
        rig=pipeline.views.get("rig") if rig is None else rig,
        seed=seed,
        batch_size=batch_size,
        settings=described_settings(pipeline, sampling, controls, paste_back) | dict(settings or {}),
        text_notes=lambda prompts: pipeline.text_notes(prompts, sampling),
        overwrite=overwrite,
    )


def write_samples(
    batch: MultiViewBatch,
    out: str | Path,
    generate: Callable[[MultiViewBatch], tuple[Tensor, Tensor | None]],
    *,
    task: Task | None = None,
    rig: Rig | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    text_notes: Callable[[Sequence[str]], dict[str, Any]] | None = None,
    overwrite: bool = False,
) -> GenerationCounts:
    """Make images for a batch with a function and write them as sample folders; see `generate_samples`.

    Args:
        batch: Prompts, cameras and known content of the samples.
        out: Root of the sample folders.
        generate: Maps a batch of some of the samples to their views [B, V, 3, H, W] in [-1, 1] on the CPU, and to the
            panoramas [B, 3, H, 2H] that the views were cut from; None if views are what it makes.
        task: Task that describes the known content of a sample; None: no description.
        rig: Rig of the views, to stitch a panorama of them where `generate` makes none; None: none is stitched.
        seed: Seed to record; None for images that do not depend on a seed.
        batch_size: Maximum number of samples per call of `generate`; default: all.
        settings: Additional settings to record in `sample.json`; a rerun compares them too.
        text_notes: Function from the prompts of a sample to notes on cut and empty ones; None: no notes.
        overwrite: Regenerate samples that are already complete.

    Returns:
        Numbers of written and skipped samples.

    Raises:
        ValueError: A complete sample has other prompts, cameras, seed or settings; or two ids would share a folder, or
            one cannot name any.
        FileExistsError: A folder has other files and no sample.
        OSError: A folder cannot be written; complete samples stay.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    ids = [(sample_id, f"sample {i} of the batch") for i, sample_id in enumerate(batch.sample_id)]
    check_ids(ids, partial(ignores_case, Path(out)))
    todo = []
    for i in range(batch.batch_size):
        given, pixels = ({}, None) if task is None else task.describe_given(batch, i)
        record = sample_record(batch, i, rig)
        noted = with_text_notes(dict(settings or {}) | given, {} if text_notes is None else text_notes(record.prompts))
        record = replace(record, seed=seed, settings=noted)
        folder = sample_folder(out, record.sample_id)
        if overwrite or not is_done(folder, record):
            check_sample_folder(folder, overwrite)
            todo.append((i, record, pixels))
    for start in range(0, len(todo), batch_size or max(1, len(todo))):
        part = todo[start : start + (batch_size or len(todo))]
        images, panoramas = generate(batch.rows([i for i, _, _ in part]))
        if panoramas is None and rig is not None:
            panoramas = stitched(images, rig)[0]
        panoramas = [None] * len(part) if panoramas is None else _uint8(panoramas)
        for (i, record, pixels), views, panorama in zip(part, _uint8(images), panoramas, strict=True):
            write_views(sample_folder(out, record.sample_id), record, batch, i, views, panorama, pixels, overwrite)
    return GenerationCounts(written=len(todo), skipped=batch.batch_size - len(todo))


def write_reference(
    batch: MultiViewBatch, out: str | Path, *, rig: Rig | None = None, overwrite: bool = False
) -> GenerationCounts:
    """Write the real views of a batch, one folder per sample; complete samples with the same views are skipped.

    Args:
        batch: Batch with the real views.
        out: Root of the sample folders.
        rig: Rig of the views, recorded in place of cameras; None: record the cameras.
        overwrite: Rewrite samples that are already complete.

    Returns:
        Numbers of written and skipped samples.

    Raises:
        ValueError: A complete sample has other views, prompts or cameras, and `overwrite` is False.
        OSError: A folder cannot be written.
    """
    written = 0
    for i, views in enumerate(_uint8(batch.images.cpu())):
        record = sample_record(batch, i, rig)
        folder = sample_folder(out, record.sample_id)
        valid = batch.view_valid[i].cpu()
        if not overwrite and is_done(folder, record):
            if not torch.equal(read_sample(folder).images_uint8().movedim(1, -1), views[valid]):
                raise ValueError(
                    f"views of a complete sample must equal those of the data; got other pixels, in {folder}. Write to "
                    "another folder, or pass --overwrite to replace it."
                )
            continue
        write_views(folder, record, batch, i, views, None, None, overwrite)
        written += 1
    return GenerationCounts(written=written, skipped=batch.batch_size - written)


def sample_record(batch: MultiViewBatch, index: int, rig: Rig | None) -> SampleRecord:
    """Return the record of one sample of a batch, without padding: prompts, rig or cameras, library versions."""
    valid = batch.view_valid[index].cpu()
    prompts = [prompt for prompt, is_valid in zip(batch.prompts[index], valid.tolist(), strict=True) if is_valid]
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
    """Write one sample of a batch, without padding.

    Args:
        folder: Sample folder.
        record: Description of the sample.
        batch: Batch of the sample, for its depths (if any) and padding.
        index: Index of the sample in the batch.
        views: [V, H, W, 3] uint8.
        panorama: [height, 2 height, 3] uint8, or None.
        given: [V, H, W, 4] uint8 known pixels with alpha, or None.
        overwrite: Replace a complete sample.
    """
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
    """Return, as JSON values, all settings that affect an image except prompt, cameras and seed."""
    base, control, adapter = pipeline.base, asdict(controls), pipeline.adapter_weights()
    if control["neighbour_batch"] is None:
        del control["neighbour_batch"]
    described = {
        **sampling.recorded(),
        **control,
        **({"paste_back": paste_back} if pipeline.task.paste_back else {}),
        "prompt_prefix": pipeline.prompt_prefix,
        "scheduler": type(pipeline.scheduler).__name__,
        "scheduler_config": {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")},
        "base": None if base is None else shared_name(base.id),
        "base_weights_hash": None if base is None else base.weights_hash,
        "adapter_weights_hash": tensors_hash(adapter) if adapter else None,
        "dtype": _precision(pipeline),
        **pipeline.unusual_settings(),
        "method": "mvdiffusion" if controls.caa else "independent",  # names of `mvdiff.methods`
    }
    return json.loads(json.dumps(described, default=_plain), parse_constant=str)  # JSON has no infinite numbers


def with_text_notes(settings: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """Add notes on cut and empty prompts, if there are any, to the settings of a sample."""
    return settings | ({TEXT_NOTES: notes} if notes else {})


def is_done(folder: Path, record: SampleRecord) -> bool:
    """Return True if a folder has a complete sample with the same record.

    Raises:
        ValueError: The folder has a complete sample with other prompts, cameras, seed or settings.
    """
    if not is_complete(folder):
        return False
    written = read_sample(folder).record
    for name in ("sample_id", "prompts", "seed", "rig", "cameras", "settings"):
        old, new = getattr(written, name), getattr(record, name)
        if name == "settings":
            old, new = _compared(old), _compared(new)
            if "method" not in old or "method" not in new:  # samples of earlier versions do not name it
                old, new = ({key: value for key, value in one.items() if key != "method"} for one in (old, new))
        if old == new:
            continue
        if name == "prompts":
            other = next((text for text, own in zip(old, new, strict=False) if text != own), old)
            raise ValueError(
                f"{folder} was made with another prompt ({_short(other)}). Write to another folder, or pass "
                "--overwrite to regenerate the sample."
            )
        while isinstance(new, dict) and isinstance(old, dict):
            key = next(key for key in (*new, *old) if old.get(key) != new.get(key))
            name, old, new = f"{name}.{key}", old.get(key), new.get(key)
        raise ValueError(
            f"{name} of a complete sample must equal that of this run, {_short(new)}; got {_short(old)}, in "
            f"{folder}. Write to another folder, or pass --overwrite to regenerate the sample."
        )
    return True


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that must be equal: notes follow from the prompts, and earlier versions have none.

    Earlier versions recorded the whole path of a base.
    """
    kept = {key: value for key, value in settings.items() if key != TEXT_NOTES}
    return kept | ({"base": shared_name(kept["base"])} if isinstance(kept.get("base"), str) else {})


def _uint8(images: Tensor) -> Tensor:
    return to_uint8(images.movedim(-3, -1))


def _precision(pipeline: MultiViewPipeline) -> str:
    """Return the precision of the weights and of active autocast, such as "float32 under bfloat16 autocast"."""
    device = pipeline._execution_device.type
    precision = str(pipeline.unet.dtype)
    if pipeline.text_encoder.dtype != pipeline.unet.dtype:
        precision += f" (text encoder {pipeline.text_encoder.dtype})"
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
