"""Many panoramas into sample folders, in batches, with a rerun going on where the last one stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.weights import tensors_hash
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.given import GivenViews, given_arguments
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.prompts import PromptEntry, expand_prompts
from mvdiff.samples import SampleRecord, is_complete, read_sample, sample_folder, write_sample

_SHAPING = (
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "eta",
    "paste_back",
    "caa",
    "attention_enabled",
)  # arguments of a pipeline's call that a sample notes whether given or left at their defaults


@dataclass(frozen=True)
class GenerationCounts:
    """How many samples a run wrote, and how many were complete before."""

    written: int
    skipped: int


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape images, for `sample.json`."""
    return {name: version(name) for name in ("mvdiff", "torch", "diffusers", "transformers")}


def generate_samples(
    pipeline: MVDiffusionPanoramaPipeline,
    entries: Sequence[PromptEntry],
    out: str | Path,
    *,
    seed: int = 0,
    batch_size: int = 1,
    rig: Rig | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    given: Sequence[GivenViews] | None = None,
    **call: Any,
) -> GenerationCounts:
    """Generate entries and write one sample folder each.

    Complete samples of the same prompts, seed, precision and settings are left as they are, so that a run can be
    repeated after it was stopped. Everything is checked before the first panorama is generated.

    Args:
        pipeline: what generates.
        entries: names and prompts.
        out: root of the sample folders.
        seed: of all samples; with the sample's id it fixes the noise.
        batch_size: panoramas generated at once; images do not depend on it, beyond float rounding.
        rig: views; default the pipeline's.
        overwrite: generate complete samples again.
        settings: more to note in `sample.json`, compared on a rerun too.
        given: what is given of each entry's views, for an outpainting pipeline; written beside the views and, by its
            hash, compared on a rerun.
        **call: further arguments of the pipeline's call, such as num_inference_steps, guidance_scale, negative_prompt.

    Returns:
        Counts of written and skipped samples.

    Raises:
        ValueError: prompts do not fit the rig, or a complete sample was made with other prompts, seed or settings.
        OSError: the folder cannot be written; samples that are complete stay.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}. Give the panoramas to generate at once.")
    out, rig = Path(out), pipeline.rig if rig is None else rig
    prompts = expand_prompts([entry.prompt for entry in entries], rig.num_views)
    noted = described_settings(pipeline, call) | dict(settings or {})
    conditions = [None] * len(entries) if given is None else list(given)
    records = [
        SampleRecord(entry.sample_id, views, rig.to_dict(), None, seed, noted | _noted(one), library_versions())
        for entry, views, one in zip(entries, prompts, conditions, strict=True)
    ]
    todo = [
        (record, one)
        for record, one in zip(records, conditions, strict=True)
        if overwrite or not is_done(sample_folder(out, record.sample_id), record)
    ]
    for start in range(0, len(todo), batch_size):
        batch, shown = zip(*todo[start : start + batch_size], strict=True)
        output = pipeline(
            [record.prompts for record in batch],
            rig=rig,
            seed=seed,
            sample_ids=[record.sample_id for record in batch],
            output_type="uint8",
            **given_arguments(None if given is None else shown),
            **call,
        )
        for record, one, views, panorama in zip(batch, shown, output.images, output.panoramas, strict=True):
            pixels = None if one is None else one.rgba()
            folder = sample_folder(out, record.sample_id)
            write_sample(folder, record, views, panorama, overwrite=overwrite, given=pixels)
    return GenerationCounts(written=len(todo), skipped=len(records) - len(todo))


def described_settings(pipeline: MultiViewPipeline, call: Mapping[str, Any]) -> dict[str, Any]:
    """Describe, in JSON, what shapes an image beside prompt, cameras and seed.

    Args:
        pipeline: What generates.
        call: Arguments of its call that differ from the defaults; functions are left out.
    """
    base, parameters = pipeline.base, signature(pipeline.__call__).parameters
    described = {name: parameters[name].default for name in _SHAPING if name in parameters} | {
        "prompt_prefix": pipeline.prompt_prefix,
        "scheduler": type(pipeline.scheduler).__name__,
        "scheduler_config": {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")},
        "base": None if base is None else base.id,
        "base_weights_hash": None if base is None else base.weights_hash,
        "adapter_weights_hash": tensors_hash(pipeline.adapter_weights()),
        "dtype": _precision(pipeline),
    }
    described |= pipeline.unusual_settings()
    described |= {name: value for name, value in call.items() if not callable(value)}
    return json.loads(json.dumps(described, default=_plain))


def _precision(pipeline: MultiViewPipeline) -> str:
    """Name the precision of the weights and, where it is active, of autocast: images depend on both."""
    device = pipeline._execution_device.type
    precision = str(pipeline.unet.dtype)
    if torch.is_autocast_enabled(device):
        precision += f" under {torch.get_autocast_dtype(device)} autocast"
    return precision.replace("torch.", "")


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


def _noted(given: GivenViews | None) -> dict[str, Any]:
    return {} if given is None else {"given": given.describe()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return str(value) if isinstance(value, torch.dtype | Path) else repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"
