"""Gather sample folders and results into a page: scores, 360-degree viewer, meshes and galleries of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from mvdiff import __version__
from mvdiff.files.paths import kind_of, visible
from mvdiff.files.sharing import shared_name, shared_text
from mvdiff.mesh import simplified, up_axis
from mvdiff.mesh.reading import read_mesh
from mvdiff.mesh.surface import SUFFIXES
from mvdiff.report.blocks import Block, Details
from mvdiff.report.galleries import Gallery
from mvdiff.report.pages import Page, report_sections
from mvdiff.report.pictures import Pictures, is_recording, open_pictures
from mvdiff.report.scores import scores_table
from mvdiff.report.sources import GIVEN_DEPTH, Method, Source
from mvdiff.report.tables import Table
from mvdiff.report.viewers import MeshEntry, PanoramaEntry

SHOWN_FACES = 60_000
NAMED_PROBLEMS = 20
_PROVENANCE = ("base", "num_inference_steps", "guidance_scale", "negative_prompt", "scheduler", "dtype", "mode")


@dataclass
class Content:
    """Content of a page.

    Attributes:
        num_shown: Number of samples on the page.
        num_samples: Number of samples that every method has.
        notes: Sentences about the choice of samples.
        problems: Sentences about files that could not be read.
        facts: Origin of each method's samples.
        roots: Folders and files that were read, whose paths the page does not tell.
    """

    panoramas: list[PanoramaEntry] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    meshes: list[MeshEntry] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    num_shown: int = 0
    num_samples: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    roots: list[Path] = field(default_factory=list)

    def page(self, title: str) -> Page:
        """Return the page of this content."""
        summary: list[Block | str] = []
        if self.num_samples:
            summary.append(f"Samples shown: {self.num_shown} of {self.num_samples}.")
        summary += self.notes
        if self.problems:
            more = len(self.problems) - NAMED_PROBLEMS
            named = [shared_text(problem, self.roots) for problem in self.problems[:NAMED_PROBLEMS]]
            items = [*named, *([f"and {more} more"] if more > 0 else [])]
            summary.append(Details(f"Could not be read: {len(self.problems)}", items, is_open=True))
        names = ("tables", "panoramas", "meshes", "galleries", "facts")
        return Page(title, summary, report_sections(**{name: getattr(self, name) for name in names}))


def gather(
    sources: Sequence[Source], meshes: Sequence[Path] = (), max_samples: int = 12, max_views: int = 16
) -> Content:
    """Read the content of a page from one or more sources, which are shown side by side.

    Args:
        sources: Output of `mvdiff.report.sources.open_sources`.
        meshes: Mesh files to show in addition to those in the sources.
        max_samples: Maximum number of samples.
        max_views: Maximum number of frames per recording.

    Raises:
        ValueError: There is nothing to show, a limit is below 1, or the methods have no common sample or samples of
            different kinds.
    """
    for name, value in (("--max_samples", max_samples), ("--max_views", max_views)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    methods = [source.method for source in sources]
    read = [*(source.path for source in sources), *(method.root for method in methods), *meshes]
    content = Content(roots=read)
    truth = next((source.truth for source in sources if source.truth is not None), None)
    content.roots += [] if truth is None else [truth.root]
    content.problems = [problem for method in [*methods, *([truth] if truth else [])] for problem in method.problems]
    with_samples = [method for method in methods if method.samples]
    if with_samples:
        _add_samples(content, with_samples, truth, max_samples, max_views)
    content.meshes = _meshes(sources, meshes, content.problems)
    scored = [(source.method.name, source.results) for source in sources if source.results is not None]
    table = scores_table(scored) if scored else None
    content.tables = [] if table is None else [table]
    if not (content.num_shown or content.meshes or content.tables):
        where = ", ".join(str(source.path) for source in sources)
        why = f" ({len(content.problems)} that cannot be read: {content.problems[0]})" if content.problems else ""
        raise ValueError(f"DIR must have samples, results or meshes; got none{why}, in {where}.")
    return content


def _add_samples(
    content: Content, methods: Sequence[Method], truth: Method | None, max_samples: int, max_views: int
) -> None:
    """Add galleries and panoramas of the first samples that all methods have and whose images can be read."""
    ids = [sample_id for sample_id in methods[0].samples if all(sample_id in m.samples for m in methods)]
    if not ids:
        names = "; ".join(f"{m.root}: {next(iter(m.samples))}, ..." for m in methods)
        raise ValueError(f"DIRs to compare must have common sample ids; got none in common ({names}).")
    content.num_samples = len(ids)
    compared: dict[str, list[bool | None]] = {"prompts": [], "seeds": []}  # True: equal in all methods; None: unknown
    shown, shortened = [], False
    for sample_id in ids:
        if len(shown) == max_samples:
            break
        columns = [*methods, *([truth] if truth and sample_id in truth.samples else [])]
        _check_kinds(sample_id, columns)
        pictures: dict[str, Pictures] = {}
        folder = columns[0].samples[sample_id].folder
        try:
            for method in columns:
                folder = method.samples[sample_id].folder
                pictures[method.name] = open_pictures(method.samples[sample_id], max_views, method.natural)
            galleries, panoramas = _entries(sample_id, pictures)
        except (ValueError, OSError) as error:
            content.problems.append(str(error) if str(folder) in str(error) else f"{folder}: {error}")
            continue
        shown.append(sample_id)
        content.galleries += galleries
        content.panoramas += panoramas
        records = [method.samples[sample_id].record for method in methods]
        compared["seeds"].append(None if None in (seeds := [r.seed for r in records]) else len(set(seeds)) == 1)
        compared["prompts"].append(all(record.prompts == records[0].prompts for record in records))
        shortened = shortened or any(len(one.views) < one.num_views for one in pictures.values())
    content.num_shown = len(shown)
    only_some = len({sample_id for m in methods for sample_id in m.samples}) - len(ids)
    if only_some:
        content.notes.append(f"{only_some} samples are omitted because not every method has them.")
    for what, same in compared.items():
        others = [sample_id for sample_id, equal in zip(shown, same, strict=True) if equal is False]
        if others:
            content.notes.append(f"The {what} differ in {len(others)} of these samples: {', '.join(others[:5])}.")
    if len(methods) > 1 and shown and all(map(all, compared.values())):
        content.notes.append("Every sample has the same prompts and the same seed in all methods.")
    if shortened:
        content.notes.append(f"Long recordings are shown by {max_views} evenly spaced frames.")
    for method in methods:
        content.facts[method.name] = _provenance(method, shown or ids)
    if truth is not None:
        content.facts[truth.name] = shared_name(truth.root)
    content.facts["Page"] = f"mvdiff {__version__}"


def _check_kinds(sample_id: str, methods: Sequence[Method]) -> None:
    kinds = {method.name: is_recording(method.samples[sample_id]) for method in methods}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{'frames with poses' if kind else 'a panorama'} of {name}" for name, kind in kinds.items())
        raise ValueError(f"samples to compare must be of one kind; got {listed}, in sample {sample_id!r}.")


def _entries(sample_id: str, pictures: dict[str, Pictures]) -> tuple[list[Gallery], list[PanoramaEntry]]:
    """Build galleries and panoramas of one sample; methods with other views get a separate gallery."""
    first = next(iter(pictures.values()))
    rows = [(name, one.views, one.labels, one.prompts) for name, one in pictures.items()]
    if first.depths is not None:
        rows.append((GIVEN_DEPTH, first.depths, first.labels, ()))
    galleries = []
    for labels, members in groupby(rows, key=lambda row: row[2]):
        run = list(members)
        galleries.append(Gallery({name: views for name, views, *_ in run}, sample_id, labels, run[0][3]))
    panoramas = {name: one.panorama for name, one in pictures.items() if one.panorama is not None}
    if not panoramas:
        return galleries, []
    lines = [
        line if len(set(first.prompts)) == 1 else f"{label}: {line}"
        for label, line in zip(first.labels, first.prompts, strict=True)
    ]
    return galleries, [PanoramaEntry(sample_id, list(dict.fromkeys(lines)), panoramas)]


def _meshes(sources: Sequence[Source], given: Sequence[Path], problems: list[str]) -> list[MeshEntry]:
    """Read meshes, grouped by name; unreadable meshes in the sources are added to `problems`."""
    entries = [MeshEntry(path.stem, {path.name: simplified(read_mesh(path), SHOWN_FACES)}) for path in given]
    shown, meshes_by_name = {path.resolve() for path in given}, {}
    for source in sources:
        root = source.path if source.path.is_dir() else source.path.parent
        folders = [root, root / "meshes", *(sample.folder for sample in source.method.samples.values())]
        files = [path for folder in folders if folder.is_dir() for path in visible(folder, *SUFFIXES)]
        paths = {path.resolve(): path for path in files if kind_of(path) == "file"}
        for path in (path for resolved, path in paths.items() if resolved not in shown):
            try:
                mesh = simplified(read_mesh(path, _up(source.method)), SHOWN_FACES)
            except ValueError as error:
                problems.append(str(error))
                continue
            meshes_by_name.setdefault(path.relative_to(root).as_posix(), {})[source.method.name] = mesh
    return [*entries, *(MeshEntry(name, meshes) for name, meshes in meshes_by_name.items())]


def _up(method: Method) -> np.ndarray | None:
    """Return the up direction of a method's recordings, estimated from their cameras; None without poses."""
    posed = (sample for sample in method.samples.values() if sample.record.translations() is not None)
    sample = next(posed, None)
    return None if sample is None else up_axis(sample.record.camera_tensors()[1])


def _provenance(method: Method, ids: Sequence[str]) -> str:
    records = [method.samples[sample_id].record for sample_id in ids]
    seeds = sorted({record.seed for record in records if record.seed is not None})
    settings = records[0].settings
    parts = [shared_name(method.root)]
    parts += [f"seed {', '.join(map(str, seeds[:8]))}{', ...' if len(seeds) > 8 else ''}"] if seeds else []
    told = {key: settings[key] for key in _PROVENANCE if settings.get(key) not in (None, "")}
    told |= {"base": shared_name(str(told["base"]))} if "base" in told else {}  # earlier versions recorded its path
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in told.items()]
    parts += [f"{name} {version}" for name, version in records[0].versions.items()]
    return ", ".join(parts)
