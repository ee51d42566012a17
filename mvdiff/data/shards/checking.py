"""Check shards: read every byte once, and name what is missing or damaged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mvdiff.data.counts import check_counts
from mvdiff.data.shards.index import Member
from mvdiff.data.shards.listing import file_size, shard_files
from mvdiff.data.shards.manifest import Manifest, Shard
from mvdiff.data.shards.reading import ShardSet, ShardSplit
from mvdiff.settings import ShardSettings

HEADERS, EXTRA_BYTES, EXTRA_SHARD = "damaged headers", "extra bytes", "extra shard"
MILD = (HEADERS, EXTRA_BYTES, EXTRA_SHARD)
"""Kinds of damage that cost no sample."""
_CHUNK = 8 << 20  # bytes read at once
Progress = Callable[[int, int], None]
"""Called with (shards done, total)."""


class Damage(NamedTuple):
    """Something that is missing or damaged: its kind, where it lies, and details."""

    kind: str
    place: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.place}" + (f" ({self.details})" if self.details else "")


@dataclass
class ShardReport:
    """Findings in a set of shards.

    Attributes:
        manifest: The manifest.
        damage: What is missing or damaged, in the order of the shards.
        lost: Samples that cannot be read, by split.
        is_listed: False if the store cannot be listed, so that shards beside those of the manifest are not found.
    """

    manifest: Manifest
    damage: list[Damage] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    is_listed: bool = True


def check_shards(
    root: str | Path, settings: ShardSettings | None = None, num_threads: int = 8, progress: Progress | None = None
) -> ShardReport:
    """Verify the checksum of every member and of every shard.

    Args:
        root: Folder or address of the shards.
        settings: Retries and options of the file system; the cache is left alone.
        num_threads: Shards read at once, each in pieces of 8 MiB.
        progress: Called after each shard.

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: The manifest has another form.
    """
    check_counts(num_threads=num_threads)
    shard_set = ShardSet(root, replace(settings or ShardSettings(), cache_dir=None))
    report = ShardReport(shard_set.manifest)
    for name in shard_set.manifest.files:
        try:
            shard_set.file(name)
        except OSError as error:
            report.damage.append(Damage("damaged file", shard_set.store.place(name), str(error)))
    store = shard_set.store
    files = shard_files(store.root, store.settings.storage_options)
    report.is_listed = bool(files)  # at least its own shards
    report.damage += _extra_shards(shard_set, files or set())
    jobs = [
        (split, samples, shard)
        for split in shard_set.manifest.splits
        for samples in [shard_set.split(split)]
        for shard in samples.shards
    ]
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda job: _check_shard(*job[1:]), jobs)
        for done, ((split, _, shard), (damage, lost)) in enumerate(zip(jobs, results, strict=True), start=1):
            report.damage += damage
            report.lost[split] += min(lost, shard.samples)
            if progress:
                progress(done, len(jobs))
    return report


def _extra_shards(shard_set: ShardSet, files: set[str]) -> list[Damage]:
    """Name files of shards that the manifest does not."""
    store, shards = shard_set.store, shard_set.manifest.splits.values()
    extra = files - {name for split in shards for shard in split for name in (shard.tar, shard.index)}
    return [
        Damage(EXTRA_SHARD, store.place(name), "not in the manifest; other tools read it") for name in sorted(extra)
    ]


def _check_shard(samples: ShardSplit, shard: Shard) -> tuple[list[Damage], int]:
    """Return what is wrong with a shard, and the number of its samples that are lost."""
    place = samples.store.place
    try:
        index = samples.index(shard)
    except FileNotFoundError:
        return [Damage("missing index", place(shard.index), f"{shard.samples} samples")], shard.samples
    except (OSError, ValueError) as error:
        return [Damage("damaged index", place(shard.index), f"{shard.samples} samples; {error}")], shard.samples
    owners = [(sample, member) for sample, members in enumerate(index.samples) for member in members]
    whole, chunks = hashlib.sha256(), samples.store.chunks(shard.tar, shard.bytes, _CHUNK)
    damage, lost = [], set()
    try:
        sums = _sums([member for _, member in owners], _through(chunks, whole.update))
        for (sample, member), found in zip(owners, sums, strict=True):
            if found != member.sha256:
                name = f"{place(shard.tar)}: {index.keys[sample]}.{member.name}"
                damage.append(Damage("damaged member", name, f"sample {index.ids[sample]}"))
                lost.add(sample)
    except FileNotFoundError:
        return [Damage("missing shard", place(shard.tar), f"{shard.samples} samples")], shard.samples
    except OSError as error:
        return [Damage("unreadable shard", place(shard.tar), f"{shard.samples} samples; {error}")], shard.samples
    for _ in _through(chunks, whole.update):
        pass
    if not damage and whole.hexdigest() != shard.sha256:
        damage.append(Damage(HEADERS, place(shard.tar), "its samples are whole; other tools may not read it"))
    size = file_size(samples.store.root, shard.tar, samples.store.settings.storage_options)
    if size is not None and size > shard.bytes:
        details = f"{size - shard.bytes} behind the end of the shard; other tools may read them"
        damage.append(Damage(EXTRA_BYTES, place(shard.tar), details))
    return damage, len(lost)


def _through(chunks: Iterator[bytes], use: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        use(chunk)
        yield chunk


def _sums(members: list[Member], chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the SHA-256 of each member, in order, of a tar that comes in chunks; of a missing part, that of less."""
    start, chunk = 0, b""
    for member in members:
        digest, position = hashlib.sha256(), member.offset
        while position < member.end:
            if position >= start + len(chunk):
                start += len(chunk)
                chunk = next(chunks, b"")
                if not chunk:
                    break
                continue
            part = chunk[position - start : member.end - start]
            digest.update(part)
            position += len(part)
        yield digest.digest()
