"""Say in what two results files differ, so that no difference between methods is one between protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvdiff.eval.image_hashes import SET_HASHES, WORDS, check_hashes
from mvdiff.eval.table import check_results
from mvdiff.files.text import read_json_object
from mvdiff.samples.ids import listed_ids

_TOLD = {"model": "network or protocol", "weights_hash": "weights", "variant": "variant"}


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file of `mvdiff evaluate`, and check the entries that a comparison needs.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is no results file, or an entry has the wrong type.
    """
    results = read_json_object(path)
    if not isinstance(results.get("metrics"), Mapping) or "generated" not in results:
        raise ValueError(f"{path} must be a results file of `mvdiff evaluate`; it holds no metrics.")
    check_results(results, str(path))
    for name, entry in results["metrics"].items():
        values = entry.get("per_sample", {})
        if not isinstance(values, Mapping) or not all(_is_number(value) for value in values.values()):
            raise ValueError(f"metrics.{name}.per_sample must be numbers by sample id, in {path}. Evaluate again.")
    for side in ("generated", "reference"):
        described = results.get(side) or {}
        check_hashes(described, f"{path}. Evaluate again.", f"{side}.")
        images, whole = described.get("images", {}), described.get("whole_views", {})
        if not isinstance(whole, Mapping) or not all(_is_views(whole[name], images.get(name, ())) for name in whole):
            raise ValueError(f"{side}.whole_views must be lists of indices of views, in {path}. Evaluate again.")
    return results


def differing(base: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """Return a sentence for everything that keeps two results from being compared.

    Args:
        base: Results, see `mvdiff.eval.runner.evaluate`.
        other: Results of another method.
        names: Names of both in the sentences.
    """
    lines = [*_protocols(base, other, names), *_references(base, other, names), *_samples(base, other, names)]
    lines += _sizes_and_geometry(base, other, names)
    prompts = [one["generated"].get("prompts_hash") for one in (base, other)]
    if None not in prompts and prompts[0] != prompts[1] and sample_ids(base) == sample_ids(other):
        lines.append("prompts: those of the samples differ")
    for metric in base["metrics"].keys() & other["metrics"].keys():
        line = measured_differently(base["metrics"][metric], other["metrics"][metric], names)
        lines += [f"{metric}: {line}"] * bool(line)
    return lines


def made_differently(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say which commits, library versions and devices made results, where they differ; None: nowhere.

    Results can be compared nevertheless. A library that results do not name, since an earlier version of mvdiff wrote
    them, is not compared.

    Args:
        results: Results by name.
    """
    runs = {name: one["run"] if isinstance(one.get("run"), Mapping) else {} for name, one in results.items()}
    versions = {name: run["versions"] if isinstance(run.get("versions"), Mapping) else {} for name, run in runs.items()}
    facts = {key: {name: run.get(key) or "not recorded" for name, run in runs.items()} for key in ("commit", "device")}
    for library in dict.fromkeys(library for one in versions.values() for library in one):
        facts[library] = {name: one[library] for name, one in versions.items() if library in one}
    told = [f"{key} ({_by_value(values)})" for key, values in facts.items() if len(set(map(str, values.values()))) > 1]
    if not told:
        return None
    return (
        "Warning: these results were made with different code or on different devices, so a difference between them "
        f"may come from those: {', '.join(told)}."
    )


def _by_value(values: Mapping[str, Any]) -> str:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(str(value), []).append(name)
    return "; ".join(f"{value}: {', '.join(ones)}" for value, ones in names.items())


def measured_differently(entry: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> str | None:
    """Say which network, weights or variant differ between two entries of one number; None: none does."""
    if "missing" in entry or "missing" in other:
        return None
    pairs = ((word, entry.get(key), other.get(key)) for key, word in _TOLD.items() if entry.get(key) != other.get(key))
    told = [f"{word} {_short(a)} in {names[0]}, {_short(b)} in {names[1]}" for word, a, b in pairs]
    return "; ".join(told) or None


def sample_ids(results: Mapping[str, Any]) -> set[str]:
    """Return the ids of the generated samples; of files of version 1, those with a number of their own."""
    images = results["generated"].get("images")
    if images is not None:
        return set(images)
    return {name for entry in results["metrics"].values() for name in entry.get("per_sample", ())}


def _protocols(base: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    first, second = (results.get("protocol") for results in (base, other))
    if first is None and second is None:  # files of version 1
        first, second = ({"id": "custom", "values": results.get("settings", {})} for results in (base, other))
    if first is None or second is None:
        return [f"protocol: {names[0 if first is None else 1]} records none; evaluate it again"]
    same_name = first["id"] == second["id"]
    if same_name and (first["hash"] == second["hash"] if "hash" in first else first["values"] == second["values"]):
        return []
    lines = [f"protocol: {first['id']} in {names[0]}, {second['id']} in {names[1]}"] * (not same_name)
    flat, flat_other = (dict(_flat("", protocol.get("values", {}))) for protocol in (first, second))
    changed = sorted(key for key in flat.keys() | flat_other.keys() if flat.get(key) != flat_other.get(key))
    lines += [
        f"protocol: {key} is {_short(flat.get(key))} in {names[0]}, {_short(flat_other.get(key))} in {names[1]}"
        for key in changed
    ]
    return lines or [f"protocol: hash {_short(first['hash'])} in {names[0]}, {_short(second['hash'])} in {names[1]}"]


def _references(base: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    first, second = (results.get("reference") or None for results in (base, other))
    if first is None and second is None:
        return []
    for name, reference in zip(names, (first, second), strict=True):
        if reference is None or "missing" in reference:
            return [f"reference: {name} has none"]
        for key in ("images", "geometry"):
            if reference.get(SET_HASHES[key]) is None:
                return [f"reference: {name} records no hash of its {WORDS[key]}; evaluate it again"]
    lines = []
    for key, of_set in SET_HASHES.items():
        hashes = [one.get(of_set) for one in (first, second)]
        if None in hashes or hashes[0] == hashes[1]:  # panoramas are read for some metrics only
            continue
        told = ", ".join(f"{_short(one)} in {name}" for name, one in zip(names, hashes, strict=True))
        own, real = first.get(key, {}), second.get(key, {})
        changed, only = _changed(own, real), sorted(own.keys() ^ real.keys())
        parts = [f"{WORDS[key]} of {listed_ids(changed)} differ"] * bool(changed)
        parts += [f"only one has {listed_ids(only)}"] * bool(only)
        lines.append("; ".join([f"reference: {of_set.replace('_', ' ')} {told}", *parts]))
    return lines


def _sizes_and_geometry(base: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    sides = base["generated"], other["generated"]
    sizes, geometry = ([side.get(key, {}) for side in sides] for key in ("sizes", "geometry"))
    resized = _changed(*sizes)
    moved = [name for name in _changed(*geometry) if name not in resized]  # other sizes have other intrinsics
    lines = [f"geometry: {WORDS['geometry']} of {listed_ids(moved)} differ"] * bool(moved)
    if resized:
        first = ", ".join(f"{one[resized[0]]} in {name}" for one, name in zip(sizes, names, strict=True))
        lines.append(f"sizes: those of {listed_ids(resized)} differ: {first} (height x width)")
    return lines


def _changed(hashes: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in hashes.keys() & others.keys() if hashes[name] != others[name])


def _samples(base: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    own, theirs = sample_ids(base), sample_ids(other)
    pairs = ((names[0], own - theirs), (names[1], theirs - own))
    return [f"samples: only {name} has {listed_ids(sorted(ids))}" for name, ids in pairs if ids]


def _flat(prefix: str, values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, values


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value[:12] if len(value) == 64 and value.isalnum() else value
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_views(indices: object, views: Sequence[str]) -> bool:
    return isinstance(indices, list) and all(isinstance(one, int) and 0 <= one < len(views) for one in indices)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
