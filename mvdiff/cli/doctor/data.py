"""Check of the data of a run: folders, splits, and the files of the first samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning.pytorch import LightningDataModule

from mvdiff.cli.doctor.findings import Finding, Status
from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.data.agreement import COLOURS_DISAGREE, DISAGREE, MISSING, NOT_REGISTERED
from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.layouts import Source
from mvdiff.data.prepare.check import check_folders
from mvdiff.data.prepare.problems import CheckReport, Problem
from mvdiff.data.shards.checking import MILD, Damage, check_shards
from mvdiff.data.shards.reading import holds_shards
from mvdiff.files.paths import is_url

FIRST = 16
"""Panoramas of each split, or frames of its first scene, whose files are read."""
_SHOWN = 5


def check_data(run: RunToCheck) -> Iterator[Finding]:
    """Open the splits and read the files of the first samples, or of all with `--all_data`."""
    data, root = run.data, getattr(run.data, "root", None)
    name = type(data).__name__
    if root is not None and not is_url(root) and not Path(root).is_dir():
        remedy = "Put the data set there (docs/data.md; mvdiff data toyworld makes one), or set --data.root DIR."
        yield Finding("problem", f"data.root must be a folder; got {root}, which does not exist", remedy)
        yield Finding("not checked", "splits, files and captions: they need the folder")
        return
    try:
        data.setup("fit")
        run.opened.add("data")
        yield _splits(data)
    except Exception as error:  # of a user's data module, which may raise any
        yield Finding.of_error(error, name)
    if not isinstance(data, MultiViewDataModule) or root is None:
        yield Finding("not checked", f"files of {name}, a data module of your own: the step reads a batch")
        return
    if holds_shards(root):
        yield from _shards(root, run.settings.all_data)
        return
    try:
        limit = None if run.settings.all_data else FIRST
        source = Source.of(run.arguments_of("data").get("source"))
        reports = check_folders(root, source=source, limit=limit, max_pixels=getattr(data, "max_pixels", None))
    except (ValueError, OSError) as error:
        yield Finding.of_error(error, "files")
        return
    mild = {"missing list"} if "data" in run.opened else set()  # the run does without
    mild.add(COLOURS_DISAGREE)  # training warns of it
    if not getattr(data, "check_agreement", True):
        mild |= {DISAGREE, NOT_REGISTERED, MISSING}
    if getattr(data, "missing_caption", "error") != "error":
        mild |= {"missing caption", "empty caption"}
    for report in reports:
        yield from of_files(
            report, mild if getattr(data, "on_broken", "error") == "error" else set(report.counts), limit
        )


def _shards(root: str | Path, all_data: bool) -> Iterator[Finding]:
    """Verify every checksum with `--all_data`; the manifest was read, and the step reads a batch."""
    whole = f"mvdiff data check {root}"
    if not all_data:
        yield Finding(
            "not checked", f"contents of the shards: `{whole}` verifies every checksum; the step reads a batch"
        )
        return
    damage = check_shards(root).damage
    mild = [one for one in damage if one.kind in MILD]
    bad = [one for one in damage if one.kind not in MILD]
    if bad:
        remedy = f"{whole} names all of them; data.max_damaged goes on around some."
        yield Finding("problem", f"every shard: {_shown(bad)}", remedy)
    if mild:
        remedy = "Training reads every sample. For other tools, remove these files and write the shards again."
        yield Finding("warning", f"every shard: {_shown(mild)}", remedy)
    if not damage:
        yield Finding("ok", "every shard: all checksums match")


def _splits(data: LightningDataModule) -> Finding:
    if not isinstance(data, MultiViewDataModule):
        return Finding("ok", f"{type(data).__name__} is set up")
    sizes = {"train": len(data.train_dataset()), "validation": len(data.val_dataset()) if data.num_val else 0}
    try:
        sizes["test"] = len(data.test_dataset())
    except (ValueError, OSError) as error:
        return Finding.of_error(error, f"{_counts(sizes)} samples; mvdiff test would fail", "warning")
    return Finding("ok", f"{type(data).__name__}: {_counts(sizes)} samples, {data.width}x{data.height} pixels")


def of_files(report: CheckReport, mild_kinds: set[str], limit: int | None) -> Iterator[Finding]:
    """Report problems of files, those of mild kinds as warnings."""
    mild = [problem for problem in report.problems if problem.kind in mild_kinds]
    bad = [problem for problem in report.problems if problem.kind not in mild_kinds]
    whole = f"mvdiff data check {report.root}"
    what = "panoramas of each split" if report.noun == "panoramas" else "frames of the first scene of each split"
    part = "every file" if limit is None else f"files of the first {limit} {what}"
    if bad:
        yield _named("problem", bad, part, f"{whole} names all of them; data.on_broken skip leaves some out.")
    if mild:
        yield _named("warning", mild, part, f"{whole} names all of them.")
    for warning in report.warnings:
        yield Finding("warning", str(warning), "Check the unit of the depth images (docs/data.md).")
    if not report.problems:
        images = ", ".join(f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common(3))
        text = f"{part}: {report.layout} layout; images: {images}; captions: {report.captions}; no problems"
        yield Finding("ok", text + ("" if limit is None else f" (`{whole}` reads all files)"))


def _named(status: Status, problems: list[Problem], part: str, remedy: str) -> Finding:
    counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(p.kind for p in problems).most_common())
    return Finding(status, f"{part}: {counts}: {_shown(problems)}", remedy)


def _shown(problems: Sequence[Problem | Damage]) -> str:
    return "; ".join(map(str, problems[:_SHOWN])) + ("; ..." if len(problems) > _SHOWN else "")


def _counts(sizes: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in sizes.items())
