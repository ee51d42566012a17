"""The index of one shard: where each member of its tar lies, its checksum, and the ids of the samples."""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mvdiff.data.shards.manifest import decoded
from mvdiff.files.text import parse_json


class Member(NamedTuple):
    """Place and checksum of a member's content in a tar."""

    name: str  # without the key of its sample, such as "face0.jpg"
    offset: int
    size: int
    sha256: bytes

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + self.size

    def problem(self, content: bytes | memoryview) -> str | None:
        """Describe content that is not this member's; None: it is."""
        if len(content) != self.size:
            return f"it has {len(content)} of {self.size} bytes"
        return None if hashlib.sha256(content).digest() == self.sha256 else "its checksum does not match"


@dataclass(frozen=True)
class ShardIndex:
    """Samples of a shard, in order.

    Attributes:
        plan: Plan that the shard was written for, see `Manifest.plan`.
        tar_bytes: Size of the tar.
        tar_sha256: SHA-256 of the tar.
        sources: What the files behind it were, see `mvdiff.data.shards.plan.Job`; "" if unknown.
        ids: Id of each sample.
        keys: WebDataset key of each sample.
        samples: Members of each sample, in the order of the tar.
    """

    plan: str
    tar_bytes: int
    tar_sha256: str
    sources: str
    ids: list[str]
    keys: list[str]
    samples: list[tuple[Member, ...]]


def index_content(
    tar: Path, name: str, sha256: str, plan: str, sources: str, ids: Sequence[str], sums: Mapping[str, str]
) -> bytes:
    """Return the index file of a tar that was just written.

    Args:
        tar: The tar, under a temporary name.
        name: Its name.
        sha256: SHA-256 of the tar.
        plan: See `ShardIndex`.
        sources: See `ShardIndex`.
        ids: Id of each sample.
        sums: SHA-256 of each member, by its whole name, in order.
    """
    files = {}
    with tarfile.open(tar, "r:") as archive:
        for info in archive:
            files[info.name] = {"offset": info.offset_data, "size": info.size, "sha256": sums[info.name]}
    values = {
        "path": name,
        "filesize": tar.stat().st_size,
        "hash_lfs": sha256,
        "plan": plan,
        "sources": sources,
        "ids": list(ids),
        "files": files,
    }
    return (json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def parse_index(content: bytes, where: str) -> ShardIndex:
    """Parse an index file.

    Raises:
        ValueError: It has another form.
    """
    values = parse_json(decoded(content, where), where)
    try:
        keys: list[str] = []
        samples: list[list[Member]] = []
        for name, file in values["files"].items():
            key, extension = split_name(name)
            if not keys or keys[-1] != key:
                keys.append(key)
                samples.append([])
            digest = bytes.fromhex(file["sha256"])
            samples[-1].append(Member(sys.intern(extension), int(file["offset"]), int(file["size"]), digest))
        ids = [str(one) for one in values["ids"]]
        if len(ids) != len(keys):
            raise ValueError(f"it has {len(ids)} ids of {len(keys)} samples")
        size = int(values["filesize"])
        if any(member.offset < 0 or member.size < 0 or member.end > size for members in samples for member in members):
            raise ValueError("members lie outside of the shard")
        of_tar = str(values["plan"]), size, str(values["hash_lfs"]), str(values.get("sources", ""))
        return ShardIndex(*of_tar, ids, keys, [tuple(members) for members in samples])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} must be the index of a shard ({error}). Write the shards again.") from error


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name as WebDataset does: at the first dot after the last slash.

    Example:
        >>> split_name("scene.1/000150.color.jpg")
        ('scene.1/000150', 'color.jpg')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension
