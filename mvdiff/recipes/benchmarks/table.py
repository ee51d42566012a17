"""A table of the paper as data: its rows, what each needs at which size, published numbers, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mvdiff.eval.protocol import Protocol
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.methods.parts import Parts
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings, Size
from mvdiff.recipes.scoring import Number
from mvdiff.report import Column

TRUTH = "truth"
"""Name of the row of real views."""


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """One model of a row.

    Attributes:
        option: Setting that names it.
        name: Packaged name or hub id, where the setting is not given; None: the setting must be given.
        source: Where it comes from: a command, or a sentence without its full stop.
    """

    option: str
    name: str | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method of a table.

    Attributes:
        method: Name of the method, see `mvdiff.methods`; it names samples and results, too.
        label: The paper's name.
        parts: Models by size, and by their fields in `mvdiff.methods.parts.Parts`.
        published: The paper's numbers as printed, in the order of the section's published columns; none if it has no
            such row.
        imports: Command that imports the images, of a method that mvdiff does not run.
        note: Remark below the table.
    """

    method: str
    label: str
    parts: Mapping[Size, Mapping[str, ModelPart]] = field(default_factory=dict)
    published: Sequence[str] = ()
    imports: str = ""
    note: str = ""

    @property
    def is_reference(self) -> bool:
        """True for the real views."""
        return self.method == TRUTH

    def how_to_import(self, folder: Path) -> str:
        """Return what brings the images of a method that mvdiff does not run; `folder` is that of the section."""
        return f"{self.imports.format(folder=folder)}, then --imported {self.method}={self.method}"

    def chosen(self, settings: BenchmarkSettings) -> dict[str, str | None]:
        """Return the names of the models by field; None: not given."""
        parts = self.parts.get(settings.size, {})
        return {place: getattr(settings, part.option) or part.name for place, part in parts.items()}

    def to_open(self, settings: BenchmarkSettings) -> Parts:
        """Return what `Method.open` takes."""
        return Parts(**self.chosen(settings))


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """One task of a table: methods on the same data under one protocol.

    Attributes:
        task: Task of the samples.
        title: Heading of its tables.
        protocols: Id of the protocol, or path of its file, by size.
        world: Arguments of `write_toyworld` that make the protocol's toy world, without the seed 0.
        layout: Folder of the toy world that holds the data.
        data_option: Setting that names the data.
        data_source: Where the paper's data come from.
        rows: Methods.
        base: Method that the others are compared with.
        numbers: Columns; those that no row has are left out.
        published: Headings of the published numbers.
        published_on: Data and size of the published numbers.
        note: Remark below the table.
    """

    task: Literal["panorama", "depth"]
    title: str
    protocols: Mapping[Size, str]
    world: Mapping[str, Any]
    layout: str
    data_option: str = "data"
    data_source: str
    rows: Sequence[MethodRow]
    base: str = "independent"
    numbers: Sequence[Number]
    published: Sequence[Column]
    published_on: str
    note: str = ""

    def protocol(self, size: Size) -> Protocol:
        """Return the protocol of a size."""
        return read_protocol(self.protocols[size])

    def row(self, method: str) -> MethodRow:
        """Return the row of a method."""
        return next(row for row in self.rows if row.method == method)

    def with_rows(self, rows: Sequence[MethodRow], **changes: Any) -> TableSection:
        """Return the section with other rows and further changes."""
        return replace(self, rows=tuple(rows), **changes)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a table should show, committed before it is run.

    Attributes:
        sentence: The expectation.
        task: TableSection that decides.
        number: Number that decides, by its name in the results.
        higher: Pairs of methods (higher, lower); all of them must hold.
    """

    sentence: str
    task: str
    number: str
    higher: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        name: Name of the command and of the files: "table1".
        title: Heading of the page.
        sections: Tasks.
        expectations: What it should show.
    """

    name: str
    title: str
    sections: Sequence[TableSection]
    expectations: Sequence[Expectation] = ()

    @property
    def methods(self) -> list[str]:
        """Names of all rows."""
        return list(dict.fromkeys(row.method for section in self.sections for row in section.rows))
