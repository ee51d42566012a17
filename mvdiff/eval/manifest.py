"""Manifests: files that name a reference by the hashes of what metrics read of it, for data that each user brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvdiff.eval.image_hashes import SET_HASHES, WORDS, check_hashes
from mvdiff.files.text import read_json_object
from mvdiff.samples import write_json
from mvdiff.samples.ids import listed_ids

SCHEMA_VERSION = 1


def write_manifest(path: Path, reference: Mapping[str, Any]) -> None:
    """Write the manifest of a reference, from its entry in `results.json`.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (*SET_HASHES.values(), "num_samples", "num_images", *SET_HASHES)
    named = {name: reference[name] for name in names if name in reference}  # panoramas only if a metric read them
    write_json(path, {"schema_version": SCHEMA_VERSION} | named)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the hashes of a reference from a manifest, as they stand in `results.json`.

    Raises:
        ValueError: The file is no manifest.
    """
    values = read_json_object(path)
    if values.get("schema_version") != SCHEMA_VERSION or not {"images", "geometry"} <= values.keys():
        raise ValueError(
            f"a manifest must hold schema_version {SCHEMA_VERSION}, images and geometry; got another file, {path}. "
            "Name a new file, which will be written."
        )
    check_hashes(values, f"{path}. Name a new file, which will be written.")
    return values


def manifest_deviations(manifest: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Return a sentence for samples that a manifest has and a reference lacks, the reverse, and other content.

    Args:
        manifest: Output of `read_manifest`.
        reference: Entry of the reference in `results.json`.

    Example:
        >>> one, other = ({"images": {"a": ["1"], "b": [name]}, "geometry": {"b": name}} for name in "23")
        >>> manifest_deviations(one, other | {"images": other["images"] | {"c": []}})
        ['the manifest lacks 1 sample of the reference: c', \
'images of 1 sample of the reference differ from the manifest: b', \
'cameras or depths of 1 sample of the reference differ from the manifest: b']
    """
    own, real = manifest["images"].keys(), reference["images"].keys()
    lacking, further = sorted(own - real), sorted(real - own)
    lines = [f"the reference lacks {_counted(lacking)} of the manifest: {listed_ids(lacking)}"] if lacking else []
    lines += [f"the manifest lacks {_counted(further)} of the reference: {listed_ids(further)}"] if further else []
    for key, words in WORDS.items():
        hashes, named = reference.get(key, {}), manifest.get(key, {})
        other = sorted(name for name in own & hashes.keys() if named.get(name) != hashes[name])
        if other and not named:
            lines.append(f"the manifest names no {words}, which the metrics read; write a new one")
        elif other:
            lines.append(f"{words} of {_counted(other)} of the reference differ from the manifest: {listed_ids(other)}")
    return lines


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} sample{'s' * (len(names) != 1)}"
