"""Pages as Markdown: the same content as the HTML page, without pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mvdiff.report.blocks import Block, Details, Facts, Note
from mvdiff.report.pages import Page
from mvdiff.report.tables import Table, cell_text


def markdown(page: Page) -> str:
    """Return texts, tables, lists and facts of a page as Markdown; blocks of pictures are left out."""
    parts = [f"# {page.title}", *_written(page.summary)]
    for section in page.sections:
        written = list(_written(section.blocks))
        parts += [f"## {section.heading}", *written] if written else []
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table of a page, without its title and its note.

    Example:
        >>> print(markdown_table(Table("Scores", ["method", "dB"], [["with CAA", (20.8, 20.5, 21.1)], ["base", None]])))
        | method | dB |
        | --- | --- |
        | with CAA | 20.80 [20.50, 21.10] |
        | base | – |
    """
    headings = [f"{one.name} ({one.unit})" if one.unit else one.name for one in table.headings]
    digits = [one.digits for one in table.headings]
    rows = [[cell_text(cell, own) for cell, own in zip(row, digits, strict=True)] for row in table.rows]
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _written(blocks: Sequence[Block | str]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Table):
            yield f"**{block.title}**"
            yield markdown_table(block)
            if block.note:
                yield block.note
        elif isinstance(block, Details):
            yield f"**{block.title}**"
            yield "\n".join(f"- {item}" for item in block.items)
        elif isinstance(block, Facts):
            yield "\n".join(f"- {name}: {value}" for name, value in block.facts.items())
        elif isinstance(block, Note):
            yield block.text
        elif isinstance(block, str):
            yield str(block)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
