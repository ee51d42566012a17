"""The report: one HTML file that holds everything it shows."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from mvdiff.report.charts import Chart, chart_figure
from mvdiff.report.galleries import PanoramaEntry, Strip, strip_figures, viewer_section
from mvdiff.report.markup import Html, markup, tag
from mvdiff.report.meshes import MeshEntry, mesh_section
from mvdiff.report.tables import Table, table_figure


def _packaged(name: str) -> str:
    return files("mvdiff.report").joinpath(name).read_text(encoding="utf-8")


def _summary(summary: str | Sequence[str]) -> Html:
    """Paragraphs; an `Html` string stands as it is."""
    paragraphs = [summary] if isinstance(summary, str) else summary
    return markup([part if isinstance(part, Html) else tag("p", part) for part in paragraphs])


def _section(name: str, heading: str, content: object) -> Html:
    return tag("section", tag("h2", heading), content, id=name)


def _footer(footer: Mapping[str, object]) -> Html | None:
    if not footer:
        return None
    return tag("dl", [tag("div", tag("dt", key), tag("dd", value)) for key, value in footer.items()], class_="card")


def render_report(
    title: str,
    summary: str | Sequence[str],
    tables: Sequence[Table] = (),
    curves: Sequence[Chart] = (),
    strips: Sequence[Strip] = (),
    panoramas: Sequence[PanoramaEntry] = (),
    footer: Mapping[str, object] | None = None,
    meshes: Sequence[MeshEntry] = (),
) -> str:
    """Write the report as a string; see `write_report`."""
    sections = []
    if tables:
        sections.append(("scores", "Scores", [table_figure(table) for table in tables]))
    if panoramas:
        sections.append(("panoramas", "Look around", viewer_section(panoramas)))
    if meshes:
        sections.append(("meshes", "Mesh in 3D", mesh_section(meshes)))
    if curves:
        sections.append(("curves", "Training", tag("div", [chart_figure(chart) for chart in curves], class_="charts")))
    if strips:
        sections.append(("views", "Views", strip_figures(strips)))
    if footer:
        sections.append(("provenance", "How this was made", _footer(footer)))
    links = [tag("a", heading, href=f"#{name}") for name, heading, _ in sections]
    navigation = tag("nav", links) if len(links) > 1 else None
    header = tag("header", tag("h1", title), tag("div", _summary(summary), class_="summary"), navigation)
    return _page("page", title, header, [_section(*section) for section in sections], panoramas, meshes)


def render_part(title: str, panoramas: Sequence[PanoramaEntry], strips: Sequence[Strip] = ()) -> str:
    """Write a page of the 360-degree viewer and strips alone, for the frame of another page; see `write_report`."""
    return _page("part", title, None, [viewer_section(panoramas), *strip_figures(strips)], panoramas, ())


def _page(
    kind: str,
    title: str,
    header: Html | None,
    content: object,
    panoramas: Sequence[PanoramaEntry],
    meshes: Sequence[MeshEntry],
) -> str:
    scripts = (("stage.js", panoramas or meshes), ("viewer.js", panoramas), ("mesh_viewer.js", meshes))
    return Template(_packaged("template.html")).substitute(
        kind=kind,
        title=markup(title),
        style=_packaged("style.css"),
        header=markup(header),
        sections=markup(content),
        script=markup([tag("script", Html(_packaged(name))) for name, shown in scripts if shown]),
    )


def write_report(
    path: str | Path,
    title: str,
    summary: str | Sequence[str],
    tables: Sequence[Table] = (),
    curves: Sequence[Chart] = (),
    strips: Sequence[Strip] = (),
    panoramas: Sequence[PanoramaEntry] = (),
    footer: Mapping[str, object] | None = None,
    meshes: Sequence[MeshEntry] = (),
) -> Path:
    """Write one self-contained HTML file: it loads nothing, so it can be mailed, archived and opened offline.

    Args:
        path: The file; its folder is made, and an older file is replaced in one step.
        title: Heading of the page.
        summary: Paragraphs of plain text; an `Html` string is taken as markup.
        tables: Tables of scores.
        curves: Line charts.
        strips: Rows of views.
        panoramas: Scenes of the 360-degree viewer.
        footer: Provenance: what was run, with which settings, versions and weights.
        meshes: Scenes of the 3D viewer.

    Returns:
        The path.

    Raises:
        ValueError: If an image, a mask, a mesh, a table or a series has a wrong form.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    page = render_report(title, summary, tables, curves, strips, panoramas, footer, meshes)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path
