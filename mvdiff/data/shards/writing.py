"""Write shards: planned from the sizes of the files, each one whole or not there, continued where a run was stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

from mvdiff import __version__
from mvdiff.data.counts import check_counts
from mvdiff.data.shards.index import index_content, parse_index
from mvdiff.data.shards.manifest import NAME, Manifest, Shard, parse_manifest
from mvdiff.data.shards.plan import Content, Job, Plan, make_plan
from mvdiff.data.shards.target import Target

Progress = Callable[[int, int], None]
"""Called with (samples done, total)."""
_log = logging.getLogger(__name__)


class Written(NamedTuple):
    """Result of `write_shards`: the manifest, and how many shards were written, or kept from an earlier run."""

    manifest: Manifest
    written: int
    kept: int


def write_shards(
    content: Content,
    out: str | Path,
    shard_bytes: int,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    storage_options: Mapping[str, Any] | None = None,
    planning: Progress | None = None,
) -> Written:
    """Write a set of shards; what an earlier run of the same plan wrote of the same files is kept.

    Args:
        content: What goes into the shards.
        out: Folder, or address such as s3://bucket/data.
        shard_bytes: Most bytes of a shard; a single sample may be larger.
        num_workers: Shards written at once, each in a temporary file of its own.
        overwrite: Replace what is there and is not of this plan.
        progress: Called after each sample.
        storage_options: Options of fsspec's file system for an address.
        planning: Called after each sample that was planned, before any is written.

    Raises:
        ValueError: `out` holds shards of other data or settings.
        OSError: `out` cannot be written.
    """
    check_counts(shard_size=shard_bytes, num_workers=num_workers)
    target = Target(out, storage_options or {})
    plan = make_plan(content, shard_bytes, planning)
    jobs = plan.jobs
    if overwrite:
        _remove_others(target, plan.hash)
    _clear_extra(target, plan, overwrite)
    shards = _earlier(target, plan, overwrite)
    kept = len(shards)
    counter = _Counter(sum(shard.samples for shard in shards.values()), sum(len(job.samples) for job in jobs), progress)
    with ThreadPoolExecutor(num_workers) as pool:
        left = [job for job in jobs if job.name not in shards]
        futures = [pool.submit(_write_shard, target, content, plan.hash, job, counter) for job in left]
        try:
            shards |= {future.result().name: future.result() for future in as_completed(futures)}
        except BaseException:
            counter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    files = content.files()
    for name, value in files.items():
        target.write(name, value)
    manifest = Manifest(
        kind=content.kind,
        what=content.what,
        splits={split: [shards[job.name] for job in jobs if job.split == split] for split in content.counts()},
        source=content.source,
        settings=content.settings,
        versions={"mvdiff": __version__} | {name: version(name) for name in ("webdataset", "torch", "diffusers")},
        plan=plan.hash,
        files={name: hashlib.sha256(value).hexdigest() for name, value in files.items()},
    )
    target.write(NAME, manifest.to_json())
    return Written(manifest, len(futures), kept)


def _earlier(target: Target, plan: Plan, overwrite: bool) -> dict[str, Shard]:
    """Return the whole shards of an earlier run; name and leave out those whose files have changed since.

    An index without `sources` does not say what the files were; such a shard is kept.

    Raises:
        ValueError: Something else is there, and is not to be replaced.
    """
    shards, changed = {}, []
    for job in plan.jobs:
        name = f"{job.name}.json"
        content = target.read(name)
        if content is None:
            continue
        try:
            values = parse_index(content, f"{target.place}/{name}")
        except ValueError:
            values = None
        if values is None or values.plan != plan.hash:
            if overwrite:
                continue
            raise _of_others(target, f"{name} is of others or damaged")
        if values.sources not in ("", job.sources):
            changed.append(job.name)
        elif target.size(f"{job.name}.tar") == values.tar_bytes:
            shards[job.name] = _shard(job, content, values.tar_bytes, values.tar_sha256)
    if changed:
        count = f"{len(changed)} of {len(plan.jobs)} shards in {target.place}"
        _log.warning("%s are of files that have changed since (%s, ...) and are written again.", count, changed[0])
        target.remove(NAME)  # names what will be replaced
    return shards


def _remove_others(target: Target, plan: str) -> None:
    """Remove the shards that a manifest of another plan names, the manifest first."""
    content = target.read(NAME)
    if content is None:
        return
    manifest = parse_manifest(content, f"{target.place}/{NAME}")
    if manifest.plan == plan:
        return
    target.remove(NAME)
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        target.remove(shard.index)
        target.remove(shard.tar)


def _clear_extra(target: Target, plan: Plan, overwrite: bool) -> None:
    """Remove files of shards that are not in the plan, as a run of another plan leaves that was stopped.

    Raises:
        ValueError: There are some, and they are not to be replaced.
    """
    files = target.shard_files()
    if files is None:
        _log.warning("%s cannot be listed; shards of an earlier run may lie beside the new ones.", target.place)
        return
    extra = sorted(files - {f"{job.name}.{ending}" for job in plan.jobs for ending in ("tar", "json")})
    if extra and not overwrite:
        raise _of_others(target, f"{extra[0]} is of others")
    for name in extra:
        target.remove(name)


def _of_others(target: Target, problem: str) -> ValueError:
    return ValueError(
        f"--out must hold no shards of other data or settings; got {target.place}, where {problem}. Name another "
        "place, or replace them with --overwrite."
    )


def _write_shard(target: Target, content: Content, plan: str, job: Job, counter: _Counter) -> Shard:
    """Write a tar, then its index, which says that it is whole."""
    from webdataset import TarWriter

    sums: dict[str, str] = {}
    with target.new_file(f"{job.name}.tar") as path:
        with open(path, "xb") as file:
            hashed = _Hashed(file)
            how = {"encoder": False, "compress": False, "mtime": 0, "user": "", "group": "", "format": "PAX_FORMAT"}
            with TarWriter(hashed, **how) as tar:
                for index, sample in enumerate(job.samples, start=job.first):
                    members = content.members(job.split, index)
                    sums |= {f"{sample.key}.{name}": _sha256(value) for name, value in members.items()}
                    tar.write({"__key__": sample.key, **members})
                    counter.add()
        size, digest = path.stat().st_size, hashed.digest.hexdigest()
        ids = [sample.id for sample in job.samples]
        index_file = index_content(path, f"{job.name}.tar", digest, plan, job.sources, ids, sums)
    target.write(f"{job.name}.json", index_file)
    return _shard(job, index_file, size, digest)


def _shard(job: Job, index_file: bytes, size: int, digest: str) -> Shard:
    return Shard(
        name=job.name,
        first=job.first,
        samples=len(job.samples),
        bytes=size,
        sha256=digest,
        index_sha256=_sha256(index_file),
    )


class _Counter:
    """Count samples over threads."""

    def __init__(self, done: int, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress, self._lock = done, total, progress, Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """End the other threads at their next sample, since one failed or the user gave up."""
        self._is_stopped = True

    def add(self) -> None:
        if self._is_stopped:
            raise CancelledError
        with self._lock:
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
