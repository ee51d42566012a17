"""What goes into which shard, and what tells that the files behind it have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from mvdiff.data.shards.manifest import Kind, What

_BLOCK = 512  # of a tar: a member has a header of one, and is filled up to whole ones


class Planned(NamedTuple):
    """A sample to write: its id, the size in bytes of each of its members, and what its files were, see `state_of`."""

    id: str
    sizes: dict[str, int]
    source: str = ""

    @property
    def key(self) -> str:
        """WebDataset key: the id in ASCII without dots, which would end it."""
        return quote(self.id, safe="/ ").replace(".", "%2E")

    @property
    def bytes(self) -> int:
        """Bytes that it takes in a tar."""
        return sum(_BLOCK * (1 + -(-size // _BLOCK)) for size in self.sizes.values())


class Content(Protocol):
    """Content of shards. Methods are called from several threads."""

    kind: Kind
    what: What
    source: dict[str, Any]
    settings: dict[str, Any]

    def counts(self) -> Mapping[str, int]:
        """Return the number of samples of each split."""

    def planned(self, split: str, index: int) -> Planned:
        """Plan a sample."""

    def members(self, split: str, index: int) -> dict[str, bytes]:
        """Make the members of a sample, by name without key."""

    def files(self) -> dict[str, bytes]:
        """Return further files of the set, by name."""


@dataclass(frozen=True)
class Job:
    """A shard to write: its name without ending, its split, the index of its first sample, and its samples."""

    name: str
    split: str
    first: int
    samples: list[Planned]

    @property
    def sources(self) -> str:
        """SHA-256 of what the files of its samples were."""
        return hashlib.sha256("\n".join(sample.source for sample in self.samples).encode()).hexdigest()


class Plan(NamedTuple):
    """Shards to write, and the SHA-256 of everything that decides what goes into which."""

    jobs: list[Job]
    hash: str


def make_plan(content: Content, shard_bytes: int, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Plan shards of at most `shard_bytes`; a single sample may be larger.

    Args:
        content: What goes into the shards.
        shard_bytes: Most bytes of a shard.
        progress: Called with (samples planned, total).
    """
    digest = hashlib.sha256()
    for value in (content.kind, content.what, content.settings, shard_bytes):
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    counts, done, jobs = content.counts(), count(1), []
    for split, number in counts.items():
        digest.update(json.dumps(split).encode() + b"\n")
        samples = []
        for index in range(number):
            samples.append(sample := content.planned(split, index))
            digest.update(json.dumps((sample.id, sample.sizes)).encode() + b"\n")
            if progress:
                progress(next(done), sum(counts.values()))
        jobs += _jobs(split, samples, shard_bytes)
    return Plan(jobs, digest.hexdigest())


def state_of(files: list[Path], *texts: bytes) -> str:
    """Return what changes whenever a source does: a hash of sizes and times of its files, and of its texts.

    Args:
        files: Files of a sample; one that does not exist counts as such.
        texts: What was read of it in any case, such as captions.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except FileNotFoundError:
            digest.update(b"none\n")
    for text in texts:
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()


def _jobs(split: str, samples: list[Planned], shard_bytes: int) -> Iterator[Job]:
    """Fill shards with samples in order."""
    numbers, first, size = count(), 0, 0
    for index, sample in enumerate(samples):
        if index > first and size + sample.bytes > shard_bytes:
            yield Job(f"{split}-{next(numbers):06d}", split, first, samples[first:index])
            first, size = index, 0
        size += sample.bytes
    yield Job(f"{split}-{next(numbers):06d}", split, first, samples[first:])
