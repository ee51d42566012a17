"""Read samples of shards by index, every byte checked."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from mvdiff.data.shards import manifest as manifests
from mvdiff.data.shards.index import Member, ShardIndex, parse_index
from mvdiff.data.shards.manifest import Manifest, Shard, parse_manifest
from mvdiff.data.shards.store import ShardStore
from mvdiff.files.paths import existing, folder_or_url, is_url, kind_of
from mvdiff.settings import ShardSettings

T = TypeVar("T")
_FIRST = "train-000000.tar"  # the shard that is written first
_INDICES = 64  # indices of shards that a process keeps; one of 500 panoramas takes 1 MB, one of 5,000 frames 4 MB
_GAP = 64 << 10  # bytes that are read for nothing rather than in a request of their own
_SAMPLES = 2  # whole samples that a process keeps, since their parts are asked for one by one


def holds_shards(root: str | Path) -> bool:
    """Return True for a folder of shards, and for any address, since nothing else is read from addresses.

    A folder whose writing was stopped has shards and no manifest; `ShardSet` says what to do about it.
    """
    place = folder_or_url(root)
    return is_url(place) or any(kind_of(existing(place / name)) == "file" for name in (manifests.NAME, _FIRST))


class ShardSet:
    """A set of shards, whatever it holds.

    Args:
        root: Folder or address.
        settings: Cache, retries and options of the file system.

    Raises:
        FileNotFoundError: The folder has no manifest, as one whose writing was stopped.
        ValueError: The manifest has another form.
    """

    def __init__(self, root: str | Path, settings: ShardSettings | None = None) -> None:
        self.store = ShardStore(root, settings or ShardSettings())
        try:
            content = self.store.whole(manifests.NAME, _cut_short)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.store.root} must hold shards; {manifests.NAME} does not exist. Finish `mvdiff data shard`, or "
                "correct the path."
            ) from error
        self.manifest: Manifest = parse_manifest(content, self.store.place(manifests.NAME))
        self.store.keep_under(hashlib.sha256(content).hexdigest()[:16])

    def split(self, name: str) -> ShardSplit:
        """Return the samples of a split.

        Raises:
            FileNotFoundError: There is no such split.
        """
        if name not in self.manifest.splits:
            splits = ", ".join(self.manifest.splits)
            raise FileNotFoundError(f"{self.store.root} must hold the split {name!r}; it holds {splits}.")
        return ShardSplit(self.store, self.manifest.splits[name])

    def file(self, name: str) -> bytes:
        """Read a further file of the set, such as train.scenes.json."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise FileNotFoundError(f"{self.store.place(name)} is not among the files of its manifest.")
        return self.store.whole(name, partial(_other_hash, expected))


class ShardSplit:
    """Samples of one split, by index."""

    def __init__(self, store: ShardStore, shards: list[Shard]) -> None:
        self.store = store
        self.shards = shards
        self._firsts = [shard.first for shard in shards]
        self._size = sum(shard.samples for shard in shards)
        self._indices: Recent[ShardIndex] = Recent(_INDICES)
        self._samples: Recent[dict[str, bytes]] = Recent(_SAMPLES)

    def __len__(self) -> int:
        return self._size

    def index(self, shard: Shard) -> ShardIndex:
        """Return the index of a shard.

        Raises:
            OSError: It is missing or damaged.
            ValueError: It has another form.
        """
        return self._indices.fetch(shard.name, lambda: self._read_index(shard))

    def _read_index(self, shard: Shard) -> ShardIndex:
        content = self.store.whole(shard.index, partial(_other_hash, shard.index_sha256))
        index = parse_index(content, self.store.place(shard.index))
        if len(index.ids) != shard.samples:
            raise ValueError(
                f"{self.store.place(shard.index)} must have {shard.samples} samples, as the manifest says; got "
                f"{len(index.ids)}."
            )
        return index

    def shard_of(self, index: int) -> tuple[Shard, int]:
        """Return the shard of a sample, and the sample's position in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = self.shards[bisect_right(self._firsts, index) - 1]
        return shard, index - shard.first

    def sample_id(self, index: int) -> str:
        """Return the id of a sample."""
        shard, position = self.shard_of(index)
        return self.index(shard).ids[position]

    def place(self, index: int, member: str = "") -> str:
        """Return the shard of a sample or of a member, and its name there, for errors; nothing is read."""
        shard, position = self.shard_of(index)
        known = self._indices.get(shard.name)
        name = f"sample {position}" if known is None else known.keys[position]
        return f"{self.store.place(shard.tar)}: {name}{'.' * bool(member)}{member}"

    def sample(self, index: int, names: Collection[str] | None = None) -> dict[str, bytes]:
        """Read members of a sample, checked by their checksums; in one piece where they follow each other.

        Args:
            index: Index of the sample.
            names: Names of members without their key; None: all of them, which are kept until two others are read.

        Raises:
            FileNotFoundError: The shard or its index does not exist, or the sample has no such member.
            OSError: A member is damaged, or cannot be read.
        """
        if names is None:
            return self._samples.fetch(index, lambda: self._read(index, None))
        kept = self._samples.get(index)
        return self._read(index, names) if kept is None else {name: kept[name] for name in names}

    def _read(self, index: int, names: Collection[str] | None) -> dict[str, bytes]:
        shard, position = self.shard_of(index)
        members = self.index(shard).samples[position]
        if names is not None and (unknown := set(names) - {member.name for member in members}):
            raise FileNotFoundError(f"{self.place(index)} has no member {', '.join(sorted(unknown))}.")
        wanted = [member for member in members if names is None or member.name in names]
        try:
            parts = [self._read_run(shard, run) for run in _runs(wanted)]
        except OSError as error:
            raise type(error)(f"{self.sample_id(index)}: {error}") from error
        return {name: content for part in parts for name, content in part.items()}

    def _read_run(self, shard: Shard, members: list[Member]) -> dict[str, bytes]:
        """Read members at once, with what lies between them."""
        start, end = members[0].offset, members[-1].end

        def part(content: bytes, member: Member) -> memoryview:
            return memoryview(content)[member.offset - start : member.end - start]

        def check(content: bytes) -> str | None:
            problems = ((member.name, member.problem(part(content, member))) for member in members)
            return next((f"{name}: {problem}" for name, problem in problems if problem), None)

        content = self.store.read(shard.tar, start, end, check, shard.bytes)
        return {member.name: bytes(part(content, member)) for member in members}


def _runs(members: list[Member]) -> list[list[Member]]:
    """Group members of a sample that lie so near each other that they are read at once."""
    runs: list[list[Member]] = []
    for member in members:
        if runs and member.offset - runs[-1][-1].end <= _GAP:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


class Recent(Generic[T]):
    """The values used last, for threads of one process; another process begins with none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> T | None:
        """Return a value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def fetch(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return a value; make it if it is not there."""
        value = self.get(key)
        if value is None:
            value = make()
            with self._lock:
                self._values[key] = value
                while len(self._values) > self._size:
                    self._values.popitem(last=False)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self._size,)


def _cut_short(content: bytes) -> str | None:
    return None if content.rstrip().endswith(b"}") else f"it ends after {len(content)} bytes, in the middle"


def _other_hash(expected: str, content: bytes) -> str | None:
    return None if hashlib.sha256(content).hexdigest() == expected else "its checksum does not match"
