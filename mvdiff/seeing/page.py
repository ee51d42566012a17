"""The page of sample folders and results: scores, the 360-degree viewer, meshes, strips of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mvdiff import __version__
from mvdiff.mesh import simplified, up_axis
from mvdiff.mesh.reading import read_mesh
from mvdiff.mesh.surface import SUFFIXES
from mvdiff.report import Html, MeshEntry, PanoramaEntry, Strip, Table, write_report
from mvdiff.report.markup import tag
from mvdiff.seeing.pictures import Pictures, is_recording, open_pictures
from mvdiff.seeing.scores import scores_table
from mvdiff.seeing.sources import Method, Source

SHOWN_FACES = 60_000
NAMED_PROBLEMS = 20
_SAID = ("base", "num_inference_steps", "guidance_scale", "negative_prompt", "scheduler", "dtype", "mode")


@dataclass
class Content:
    """What a page shows, and what it says of it.

    Attributes:
        panoramas: Scenes of the 360-degree viewer.
        strips: Rows of views.
        meshes: Scenes of the 3D viewer.
        tables: Scores.
        num_shown: Samples on the page.
        num_samples: Samples that could be on it: those that every method has.
        notes: Sentences about what is shown and what is not.
        problems: What could not be read, a sentence each.
        footer: How the samples were made.
    """

    panoramas: list[PanoramaEntry] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    meshes: list[MeshEntry] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    num_shown: int = 0
    num_samples: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    footer: dict[str, object] = field(default_factory=dict)


def gather(
    sources: Sequence[Source], meshes: Sequence[Path] = (), max_samples: int = 12, max_views: int = 16
) -> Content:
    """Read what a page shows of some sources, side by side where there are several.

    Args:
        sources: See `mvdiff.seeing.sources.open_sources`.
        meshes: Mesh files to show, beside those that lie in the sources.
        max_samples: At most so many samples are shown.
        max_views: At most so many frames of a recording are shown.

    Raises:
        ValueError: There is nothing to show, a limit is below 1, or methods have no sample in common or show samples
            of different kinds.
    """
    for name, value in (("--max_samples", max_samples), ("--max_views", max_views)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}. Say how many to show.")
    content = Content()
    methods = [source.method for source in sources]
    truth = next((source.truth for source in sources if source.truth is not None), None)
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
        raise ValueError(
            f"DIR must hold samples, results or meshes; got none{why}, in {where}. Generate some, or check the path."
        )
    return content


def write_page(path: Path, content: Content, title: str) -> Path:
    """Write the page, see `mvdiff.report.write_report`."""
    return write_report(
        path,
        title,
        _summary(content),
        content.tables,
        strips=content.strips,
        panoramas=content.panoramas,
        footer=content.footer,
        meshes=content.meshes,
    )


def _add_samples(
    content: Content, methods: Sequence[Method], truth: Method | None, max_samples: int, max_views: int
) -> None:
    """Add strips and panoramas of the first samples that every method has and whose images can be read."""
    ids = [sample_id for sample_id in methods[0].samples if all(sample_id in m.samples for m in methods)]
    if not ids:
        names = "; ".join(f"{m.root}: {next(iter(m.samples))}, ..." for m in methods)
        raise ValueError(f"DIRs side by side must hold the same sample ids; got none in common ({names}).")
    content.num_samples = len(ids)
    compared: dict[str, list[bool | None]] = {"prompts": [], "seeds": []}  # the same in all methods? None: unknown
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
            strips, panoramas = _entries(sample_id, pictures)
        except (ValueError, OSError) as error:
            content.problems.append(str(error) if str(folder) in str(error) else f"{folder}: {error}")
            continue
        shown.append(sample_id)
        content.strips += strips
        content.panoramas += panoramas
        records = [method.samples[sample_id].record for method in methods]
        compared["seeds"].append(None if None in (seeds := [r.seed for r in records]) else len(set(seeds)) == 1)
        compared["prompts"].append(all(record.prompts == records[0].prompts for record in records))
        shortened = shortened or any(len(one.views) < one.num_views for one in pictures.values())
    content.num_shown = len(shown)
    only_some = len({sample_id for m in methods for sample_id in m.samples}) - len(ids)
    if only_some:
        content.notes.append(f"{only_some} samples that not every method has are left out.")
    for what, same in compared.items():
        others = [sample_id for sample_id, equal in zip(shown, same, strict=True) if equal is False]
        if others:
            content.notes.append(f"The {what} differ in {len(others)} of these samples: {', '.join(others[:5])}.")
    if len(methods) > 1 and shown and all(map(all, compared.values())):
        content.notes.append("Every sample has the same prompts and the same seed in all methods.")
    if shortened:
        content.notes.append(f"Of long recordings, {max_views} frames are shown, spread evenly.")
    for method in methods:
        content.footer[method.name] = _provenance(method, shown or ids)
    if truth is not None:
        content.footer[truth.name] = str(truth.root)
    content.footer["Page"] = f"mvdiff {__version__}"


def _check_kinds(sample_id: str, methods: Sequence[Method]) -> None:
    kinds = {method.name: is_recording(method.samples[sample_id]) for method in methods}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{'frames with poses' if kind else 'a panorama'} of {name}" for name, kind in kinds.items())
        raise ValueError(
            f"samples side by side must be of one kind; got {said}, in sample {sample_id!r}. Make a page of each."
        )


def _entries(sample_id: str, pictures: dict[str, Pictures]) -> tuple[list[Strip], list[PanoramaEntry]]:
    """Lay out what a page shows of one sample, by method."""
    first = next(iter(pictures.values()))
    strips = [Strip(name, one.prompts, one.views, one.labels, group=sample_id) for name, one in pictures.items()]
    if first.depths is not None:
        strips.append(Strip("depth, as given", (), first.depths, first.labels, group=sample_id))
    panoramas = {name: one.panorama for name, one in pictures.items() if one.panorama is not None}
    if not panoramas:
        return strips, []
    lines = [
        line if len(set(first.prompts)) == 1 else f"{label}: {line}"
        for label, line in zip(first.labels, first.prompts, strict=True)
    ]
    return strips, [PanoramaEntry(sample_id, list(dict.fromkeys(lines)), panoramas)]


def _meshes(sources: Sequence[Source], given: Sequence[Path], problems: list[str]) -> list[MeshEntry]:
    """Read meshes: those given must be readable, those found that are not are named; equal names stand side by side."""
    entries = [MeshEntry(path.stem, {path.name: simplified(read_mesh(path), SHOWN_FACES)}) for path in given]
    found: dict[str, dict] = {}
    for source in sources:
        root = source.path if source.path.is_dir() else source.path.parent
        folders = [root, root / "meshes", *(sample.folder for sample in source.method.samples.values())]
        paths = {path.resolve(): path for folder in folders for path in sorted(folder.glob("*")) if _is_mesh(path)}
        for resolved, path in paths.items():
            if resolved in {one.resolve() for one in given}:
                continue
            try:
                mesh = simplified(read_mesh(path, _up(source.method)), SHOWN_FACES)
            except ValueError as error:
                problems.append(str(error))
                continue
            found.setdefault(path.relative_to(root).as_posix(), {})[source.method.name] = mesh
    return [*entries, *(MeshEntry(name, meshes) for name, meshes in found.items())]


def _is_mesh(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _up(method: Method) -> np.ndarray | None:
    """Which way is up in the world of a method's recordings, as their cameras were held."""
    posed = (sample for sample in method.samples.values() if sample.record.translations() is not None)
    sample = next(posed, None)
    return None if sample is None else up_axis(sample.record.camera_tensors()[1])


def _provenance(method: Method, ids: Sequence[str]) -> str:
    """Say where samples lie and how the shown ones were made."""
    records = [method.samples[sample_id].record for sample_id in ids]
    seeds = sorted({record.seed for record in records if record.seed is not None})
    settings = records[0].settings
    parts = [str(method.root)]
    parts += [f"seed {', '.join(map(str, seeds[:8]))}{', ...' if len(seeds) > 8 else ''}"] if seeds else []
    parts += [f"{key.replace('_', ' ')} {settings[key]}" for key in _SAID if settings.get(key) not in (None, "")]
    parts += [f"{name} {version}" for name, version in records[0].versions.items()]
    return ", ".join(parts)


def _summary(content: Content) -> list[str]:
    lines = []
    if content.num_samples:
        lines.append(f"{content.num_shown} of {content.num_samples} samples are shown.")
    lines += content.notes
    if content.problems:
        items = [tag("li", problem) for problem in content.problems[:NAMED_PROBLEMS]]
        more = len(content.problems) - len(items)
        items += [tag("li", f"and {more} more")] if more else []
        head = tag("summary", f"{len(content.problems)} left out that could not be read")
        lines.append(Html(tag("details", head, tag("ul", items), class_="problems", open=True)))
    return lines
