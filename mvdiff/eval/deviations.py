"""Compare samples and results with a protocol, and name every deviation.

Samples are compared one by one while they are scored (`sample_deviations`), counts and numbers afterwards
(`deviations`). Which fields of a protocol are checked here, and which set something, stands in `mvdiff.eval.protocol`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval import intervals
from mvdiff.eval.protocol import IntervalRule, NumberRule, Protocol, SamplingRule
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.sources import DataSource, Source
from mvdiff.geometry.cameras import Rig
from mvdiff.samples.ids import listed_ids

Found = dict[str, str]
"""What one sample has instead of a protocol's value, by field."""

_RECORDED = {"precision": "dtype"}
"""Names of fields of `SamplingRule` in `sample.json`, where they differ."""
_SWITCHES = ("timesteps", "sigmas", "guidance_rescale", "clip_skip", "deep_cache", "cache", "freeu", "vae_tiling")
"""Settings that change pixels, that `sample.json` records where they are on, and that are off in every protocol."""
_NOT_RECORDED = "not recorded"
_SMALLEST = {"K": 1e-2, "R": 1e-4}
"""Differences of cameras that count: in pixels, and in entries of rotations."""


def sample_deviations(protocol: Protocol, sample: ScoredSample, real: bool) -> Found:
    """Return the fields of a protocol from which a sample deviates, with what it has instead.

    Args:
        protocol: The protocol.
        sample: A generated or a reference sample.
        real: True for a reference sample; sampling is not compared.
    """
    images, found = protocol.images, {}
    num_views, _, height, width = sample.images_uint8.shape
    got = {"num_views": num_views, "height": height, "width": width}
    found |= {f"images.{name}": str(value) for name, value in got.items() if _differs(getattr(images, name), value)}
    expected, task = protocol.task, _task(sample)
    if task != expected:
        found["task"] = task
    if protocol.data.ids is not None and not re.fullmatch(protocol.data.ids, sample.sample_id):
        found["data.ids"] = "another id"
    if images.rig is not None and num_views == len(images.rig) and not _has_cameras(protocol, sample):
        found["images.rig"] = "other cameras"
    return found if real or sample.seed is None else found | _sampling(protocol.sampling, sample)


def deviations(
    protocol: Protocol, results: Mapping[str, Any], found: Mapping[str, Mapping[str, Found]], reference: Source | None
) -> list[str]:
    """Return a sentence for every deviation from a protocol.

    Args:
        protocol: The protocol.
        results: Results of the evaluation.
        found: Output of `sample_deviations` by side ("generated", "reference") and sample id.
        reference: Source of the reference, or None.
    """
    lines = [line for side, samples in found.items() for line in _of_samples(protocol, side, samples)]
    return [*lines, *_counts(protocol, results), *_data(protocol, results, reference), *_of_numbers(protocol, results)]


def unchecked(protocol: Protocol, results: Mapping[str, Any], seeds: Mapping[str, int | None]) -> list[str]:
    """Return a sentence for what could not be compared with a protocol, since it or the samples do not say it.

    Args:
        protocol: The protocol.
        results: Results of the evaluation.
        seeds: Seed of every generated sample, by id.
    """
    lines = []
    rule = protocol.sampling
    without = [name for name, seed in seeds.items() if seed is None]
    if without and rule != SamplingRule():
        lines.append(f"sampling: {len(without)} of {len(seeds)} samples record no seed, as real and imported images do")
    recorded = {name: results["metrics"].get(name, {}).get("weights_hash") for name in protocol.numbers}
    for name, weights_hash in recorded.items():
        if weights_hash is not None and protocol.numbers[name].weights_hash is None:
            lines.append(f"numbers.{name}.weights_hash is not demanded; the weights have {weights_hash[:12]}")
    reference = results["reference"] or {}
    if "kind" in reference and "split of the data section" not in reference["kind"]:
        lines.append(f"data.split ({protocol.data.split}): a folder does not record its split; --config sets it")
    return lines


def _differs(wanted: Any, value: Any) -> bool:
    return wanted is not None and wanted != value


def _task(sample: ScoredSample) -> str:
    if sample.given is not None:
        return "outpaint"
    return "panorama" if sample.depths is None else "depth"


def _has_cameras(protocol: Protocol, sample: ScoredSample) -> bool:
    """Return True if a sample has the cameras of the protocol's rig, at its own size."""
    wanted = _cameras(protocol.images.rig, protocol.data.yaw, *sample.images_uint8.shape[-2:])
    at_one_place = sample.t is None or bool((sample.t - sample.t[:1]).abs().max() < 1e-4)
    pairs = zip((sample.K, sample.R), wanted, _SMALLEST.values(), strict=True)
    return at_one_place and all(bool((own - one).abs().max() <= most) for own, one, most in pairs)


@lru_cache
def _cameras(rig: Sequence[tuple[float, float, float]], yaw: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return Rig(rig, height, width).cameras(yaw_offset_deg=yaw)


def _sampling(rule: SamplingRule, sample: ScoredSample) -> Found:
    found = {}
    for one in fields(SamplingRule):
        wanted = getattr(rule, one.name)
        recorded = {"seed": sample.seed, **sample.settings}
        value = recorded.get(_RECORDED.get(one.name, one.name), _NOT_RECORDED)
        if one.name == "negative_prompt" and value is None:
            value = ""
        if one.name == "prompt_prefix" and value is None:  # one text for a whole panorama, which is no view
            continue
        if _differs(wanted, value):
            found[f"sampling.{one.name}"] = str(value)
    if rule != SamplingRule():
        found |= {f"sampling.{name}": str(sample.settings[name]) for name in _SWITCHES if name in sample.settings}
    return found


def _of_samples(protocol: Protocol, side: str, samples: Mapping[str, Found]) -> list[str]:
    """Return one sentence per field and value, with the number of samples and the first ids."""
    ids: dict[tuple[str, str], list[str]] = {}
    for sample_id, found in sorted(samples.items()):
        for name, value in found.items():
            ids.setdefault((name, value), []).append(sample_id)
    images = protocol.images
    sentences = []
    for (name, value), names in ids.items():
        group, _, key = name.rpartition(".")
        if key in _SWITCHES:
            shown = "left out"
        else:
            wanted = getattr(getattr(protocol, group) if group else protocol, key)
            shown = {"rig": f"that of {images.num_views} views", "ids": str(wanted)}.get(key, repr(wanted))
        sentences.append(f"{name} must be {shown}; got {value!r} in {len(names)} {side} samples: {listed_ids(names)}")
    return sentences


def _counts(protocol: Protocol, results: Mapping[str, Any]) -> list[str]:
    images, reference = protocol.images, results["reference"] or {}
    got = {
        "num_samples": results["generated"]["num_samples"],
        "num_reference_samples": reference.get("num_samples", 0),
    }
    return [
        f"images.{name} must be {getattr(images, name)}; got {value}"
        for name, value in got.items()
        if _differs(getattr(images, name), value)
    ]


def _data(protocol: Protocol, results: Mapping[str, Any], reference: Source | None) -> list[str]:
    data, lines = protocol.data, []
    if isinstance(reference, DataSource) and reference.split != data.split:
        lines.append(f"data.split must be {data.split}; got {reference.split}")
    got = results["generated"].get("prompts_hash")
    if data.prompts_hash is not None and not str(got).startswith(data.prompts_hash):
        lines.append(f"data.prompts_hash must be {data.prompts_hash[:12]}...; got {str(got)[:12]}: other prompts")
    return lines


def _of_numbers(protocol: Protocol, results: Mapping[str, Any]) -> list[str]:
    """Compare what is fixed in the code: intervals, the order of samples, and the entry of every number."""
    used = IntervalRule(level=intervals.LEVEL, none_below=intervals.FEWEST, bootstrap_from=intervals.FEWEST_RESAMPLED)
    lines = [
        f"intervals.{one.name} must be {wanted}; this version of mvdiff has {getattr(used, one.name)}"
        for one in fields(IntervalRule)
        if (wanted := getattr(protocol.intervals, one.name)) != getattr(used, one.name)
    ]
    for name, rule in protocol.numbers.items():
        entry = results["metrics"].get(name)
        if entry is None:
            lines.append(f"numbers.{name} is not among the numbers of the metrics")
        elif "missing" not in entry:  # a missing number is a shortcoming of its own
            lines += [f"numbers.{name}.{line}" for line in _of_number(rule, entry)]
    unordered = [
        name for name, entry in results["metrics"].items() if list(ids := entry.get("per_sample", {})) != sorted(ids)
    ]
    return lines + [f"order must be {protocol.order}; got another in {name}" for name in unordered]


def _of_number(rule: NumberRule, entry: Mapping[str, Any]) -> list[str]:
    fits = {
        "model": lambda wanted, got: got == wanted or got.startswith(f"{wanted} ("),
        "weights_hash": lambda wanted, got: got.startswith(wanted),
        "variant": lambda wanted, got: got == wanted,
    }
    return [
        f"{name} must be {wanted}; got {entry.get(name, _NOT_RECORDED)}"
        for name, is_same in fits.items()
        if (wanted := getattr(rule, name)) is not None and not is_same(wanted, str(entry.get(name, "")))
    ]
