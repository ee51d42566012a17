"""Manifests: files that name a reference by the hashes of its pixels, for data that each user brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvdiff.files.text import read_json_object
from mvdiff.samples import write_json

SCHEMA_VERSION = 1
_NAMED = 5


def write_manifest(path: Path, reference: Mapping[str, Any]) -> None:
    """Write the manifest of a reference, from its entry in `results.json`.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("content_hash", "num_samples", "num_images", "images")
    write_json(path, {"schema_version": SCHEMA_VERSION} | {name: reference[name] for name in names})


def read_manifest(path: Path) -> dict[str, list[str]]:
    """Read the pixel hashes of every sample from a manifest.

    Raises:
        ValueError: The file is no manifest.
    """
    values = read_json_object(path)
    images = values.get("images")
    is_sound = values.get("schema_version") == SCHEMA_VERSION and isinstance(images, dict)
    if not is_sound or not all(
        isinstance(one, list) and all(isinstance(x, str) for x in one) for one in images.values()
    ):
        raise ValueError(
            f"a manifest must hold schema_version {SCHEMA_VERSION} and images, lists of hashes by sample id; got "
            f"another file, {path}. Name a new file, which will be written."
        )
    return images


def manifest_deviations(manifest: Mapping[str, Sequence[str]], images: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for samples that a manifest has and a reference lacks, the reverse, and other pixels.

    Args:
        manifest: Output of `read_manifest`.
        images: Pixel hashes of the reference, by sample id.

    Example:
        >>> manifest_deviations({"a": ["1"], "b": ["2"]}, {"b": ["3"], "c": ["4"]})
        ['the reference lacks 1 sample of the manifest: a', 'the manifest lacks 1 sample of the reference: c', \
'1 sample of the reference has other pixels than in the manifest: b']
    """
    lacking, further = sorted(manifest.keys() - images.keys()), sorted(images.keys() - manifest.keys())
    other = sorted(name for name in manifest.keys() & images.keys() if list(manifest[name]) != list(images[name]))
    lines = [f"the reference lacks {_counted(lacking)} of the manifest: {_names(lacking)}"] if lacking else []
    lines += [f"the manifest lacks {_counted(further)} of the reference: {_names(further)}"] if further else []
    verb = "has" if len(other) == 1 else "have"
    text = f"{_counted(other)} of the reference {verb} other pixels than in the manifest: {_names(other)}"
    return lines + ([text] if other else [])


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} sample{'s' * (len(names) != 1)}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
