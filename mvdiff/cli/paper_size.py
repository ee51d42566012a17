"""What `mvdiff benchmark --size paper` lacks: device, data, models, networks of metrics; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from mvdiff.cli.doctor.data import FIRST, of_files
from mvdiff.cli.doctor.findings import Finding
from mvdiff.cli.doctor.offline import offline, quiet
from mvdiff.cli.doctor.weights import of_judges
from mvdiff.data.prepare.check import check_folders
from mvdiff.eval.protocol import apply_protocol
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource
from mvdiff.recipes.benchmarks.models import missing_models
from mvdiff.recipes.benchmarks.samples import SectionSamples
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings
from mvdiff.recipes.benchmarks.table import PaperTable, TableSection


def what_is_missing(table: PaperTable, settings: BenchmarkSettings) -> list[str]:
    """Return a line for everything that a table at the paper's size needs and does not find, each with its remedy.

    Methods that are imported are listed last; they alone keep no run from starting, since it writes what they take.
    """
    with offline(), quiet():
        found = [*_device(settings), *(one for section in table.sections for one in _of_section(section, settings))]
    problems = [f"{one.text}. {one.remedy}".strip() for one in found if one.status == "problem"]
    return list(dict.fromkeys([*problems, *_to_import(table, settings)] if problems else ()))


def _to_import(table: PaperTable, settings: BenchmarkSettings) -> Iterator[str]:
    for section in table.sections:
        folder = SectionSamples(section, settings).folder
        for row in section.rows:
            if row.imports and settings.makes(row.method):
                yield f"row {row.method}: {row.note}: {row.how_to_import(folder)} (a run writes {folder})."


def _device(settings: BenchmarkSettings) -> Iterator[Finding]:
    if settings.device == "auto" and not torch.cuda.is_available():
        yield Finding("problem", "device: this machine has no usable GPU", "--device cpu runs all of it, in months.")


def _of_section(section: TableSection, settings: BenchmarkSettings) -> Iterator[Finding]:
    yield from _data(section, settings)
    for row in section.rows:
        if settings.only is not None and row.method not in settings.only:
            continue
        if (folder := settings.imported_folders.get(row.method)) is not None:
            yield from _imported(row.method, folder)
            continue
        for line in missing_models(row, settings):
            yield Finding("problem", f"row {row.method}: {line}")
    yield from _networks(section, settings)


def _data(section: TableSection, settings: BenchmarkSettings) -> Iterator[Finding]:
    """Look at the folder, its first files, and the number of samples in the protocol's split."""
    option, root = f"--{section.data_option}", getattr(settings, section.data_option)
    if root is None:
        yield Finding("problem", f"{option} must be given: {section.data_source}")
        return
    if not Path(root).is_dir():
        yield Finding("problem", f"{option} must be a folder; got {root}", f"It must hold {section.data_source}.")
        return
    samples = SectionSamples(section, settings)
    protocol = samples.protocol
    try:
        for report in check_folders(root, limit=FIRST):
            yield from of_files(report, {"missing list"}, FIRST)
        found = len(samples.reference)
    except (ValueError, OSError) as error:
        yield Finding.of_error(error, option)
        return
    wanted = protocol.images.num_reference_samples
    if wanted is not None and found != wanted:
        text = f"{option}: the {protocol.data.split} split must have {wanted} samples of {protocol.id}; got {found}"
        yield Finding("problem", text, f"The ids must match {protocol.data.ids}.")


def _imported(method: str, folder: Path) -> Iterator[Finding]:
    try:
        FolderSource(folder)
    except (ValueError, OSError) as error:
        yield Finding.of_error(error, f"--imported {method}")


def _networks(section: TableSection, settings: BenchmarkSettings) -> Iterator[Finding]:
    protocol = section.protocol(settings.size)
    own = EvaluationSettings(inception_weights=settings.inception_weights, clip_weights=settings.clip_weights)
    yield from of_judges(protocol.metrics, apply_protocol(protocol, own))
