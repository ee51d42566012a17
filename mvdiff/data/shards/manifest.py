"""The manifest of a set of shards: what they hold, how they were made, and the shards of each split."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mvdiff.files.text import parse_json

FORMAT = "mvdiff-shards-1"
NAME = "manifest.json"
Kind = Literal["panoramas", "recordings"]
What = Literal["images", "views", "latents"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard of a split."""

    name: str  # without ending, such as "train-000000"
    first: int  # index in the split of its first sample
    samples: int
    bytes: int  # of the tar
    sha256: str  # of the tar
    index_sha256: str  # of its index file

    @property
    def tar(self) -> str:
        """Name of the tar."""
        return f"{self.name}.tar"

    @property
    def index(self) -> str:
        """Name of the index file."""
        return f"{self.name}.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a set of shards.

    Attributes:
        kind: What a sample of the source is: a panorama, or a frame of a recording.
        what: What is stored of it.
        splits: Shards by split, in the order of their samples.
        source: What the shards were made from, for people: layout, name, counts.
        settings: Everything that the stored numbers depend on, such as rig and yaws, or hashes of the encoders.
        versions: Versions of the libraries that wrote them.
        plan: SHA-256 of everything that decides what goes into which shard.
        files: SHA-256 of further files, by name.
    """

    kind: Kind
    what: What
    splits: dict[str, list[Shard]]
    source: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    plan: str
    files: dict[str, str] = field(default_factory=dict)

    def num_samples(self, split: str) -> int:
        """Return the number of samples of a split."""
        return sum(shard.samples for shard in self.splits[split])

    def to_json(self) -> bytes:
        """Return the file's content; the same for the same shards."""
        return (json.dumps({"format": FORMAT} | asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Parse a manifest.

    Raises:
        ValueError: It has another form.
    """
    values = parse_json(decoded(content, where), where)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        form = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{where} must be a manifest of shards with format {FORMAT!r}; got {form!r}.")
    try:
        del values["format"]
        splits = {split: [Shard(**shard) for shard in shards] for split, shards in dict(values.pop("splits")).items()}
        manifest = Manifest(splits=splits, **values)
        _check(manifest)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} must be a manifest of shards ({error}). Write the shards again.") from error
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.kind not in get_args(Kind) or manifest.what not in get_args(What):
        raise ValueError(f"it must hold images, views or latents; got {manifest.what!r} of {manifest.kind!r}")
    for name in ("source", "settings", "versions", "files"):
        if not isinstance(getattr(manifest, name), dict):
            raise ValueError(f"{name} must be an object")
    if not all(isinstance(value, str) for value in (manifest.plan, *manifest.files.values())):
        raise ValueError("hashes must be texts")
    for name in manifest.files:
        _check_name(name)
    for split, shards in manifest.splits.items():
        first = 0
        for shard in shards:
            _check_shard(split, shard, first)
            first += shard.samples


def _check_shard(split: str, shard: Shard, first: int) -> None:
    if not all(isinstance(text, str) for text in (shard.name, shard.sha256, shard.index_sha256)):
        raise ValueError("names and hashes must be texts")
    _check_name(shard.name)
    if not all(type(number) is int for number in (shard.first, shard.samples, shard.bytes)):
        raise ValueError(f"{shard.name} must have whole numbers of samples and bytes")
    if shard.first != first or shard.samples < 1 or shard.bytes < 1:
        raise ValueError(f"shards of {split} must follow each other; got {shard.name} at sample {shard.first}")


def _check_name(name: str) -> None:
    if "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"files must have plain names; got {name!r}")


def decoded(content: bytes, where: str) -> str:
    """Decode UTF-8.

    Raises:
        ValueError: It is something else.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be text in UTF-8; byte {error.start} is not.") from error
