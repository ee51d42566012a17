"""Pages as data, and their rendering to a single self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mvdiff.files.writing import write_whole
from mvdiff.report.blocks import Block, Facts
from mvdiff.report.charts import Chart, Charts
from mvdiff.report.galleries import Gallery
from mvdiff.report.images import data_uri, is_pixelated
from mvdiff.report.tables import Table
from mvdiff.report.viewers import MeshEntry, MeshViewer, PanoramaEntry, PanoramaViewer


@dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        name: Anchor, such as "scores".
        heading: Text above the blocks and in the page's navigation.
        blocks: Content; a string is a paragraph of text, and `markupsafe.Markup` is HTML.
    """

    name: str
    heading: str
    blocks: Sequence[Block | str]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Heading, and title of the browser window.
        summary: Blocks below the heading.
        sections: Sections; those without blocks are omitted.
        is_frame: Omit headings, summary, navigation and margins, for display in a frame of another page.
    """

    title: str
    summary: Sequence[Block | str] = ()
    sections: Sequence[Section] = ()
    is_frame: bool = False

    def __post_init__(self) -> None:
        kinds = [type(block).__name__ for block in self._blocks() if block.scripts]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"Page({self.title!r}) must have each viewer at most once; got {', '.join(kinds)}.")

    @property
    def scripts(self) -> list[str]:
        """Script files that the page's blocks need, without duplicates, in order."""
        return list(dict.fromkeys(script for block in self._blocks() for script in block.scripts))

    def _blocks(self) -> list[Block]:
        everything = [*self.summary, *(block for section in self.sections for block in section.blocks)]
        return [block for block in everything if isinstance(block, Block)]


def report_sections(
    *,
    tables: Sequence[Table] = (),
    panoramas: Sequence[PanoramaEntry] = (),
    meshes: Sequence[MeshEntry] = (),
    charts: Sequence[Chart] = (),
    galleries: Sequence[Gallery] = (),
    facts: Mapping[str, object] | None = None,
) -> list[Section]:
    """Return the non-empty sections of a report, with the headings and the order that all reports share."""
    sections = [
        Section("scores", "Scores", tables),
        Section("panoramas", "Look around", [PanoramaViewer(panoramas)] if panoramas else []),
        Section("meshes", "Mesh in 3D", [MeshViewer(meshes)] if meshes else []),
        Section("curves", "Training", [Charts(charts)] if charts else []),
        Section("views", "Views", galleries),
        Section("provenance", "How this was made", [Facts(facts)] if facts else []),
    ]
    return [section for section in sections if section.blocks]


@cache
def _environment() -> Environment:
    loader = PackageLoader("mvdiff.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {}  # keys in their own order
    environment.filters["data_uri"] = data_uri
    environment.tests["pixelated"] = is_pixelated
    environment.globals["source"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment


def render_page(page: Page) -> str:
    """Return the HTML of a page; see `write_page`."""
    return _environment().get_template("page.html").render(page=page)


def write_page(path: str | Path, page: Page) -> Path:
    """Write a page as one HTML file without external resources, which can be mailed, archived and opened offline.

    The parent folder is created, and an existing file is replaced atomically.

    Returns:
        The path of the file.

    Raises:
        ValueError: An image, a mask, a mesh or a chart is invalid.
        OSError: The file cannot be written.
    """
    path, text = Path(path), render_page(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path
