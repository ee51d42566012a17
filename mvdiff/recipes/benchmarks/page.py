"""Write a table: the page in HTML and Markdown, everything in JSON, and the same tables in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mvdiff.eval.comparison import Difference
from mvdiff.eval.intervals import Interval
from mvdiff.eval.table import protocol_line
from mvdiff.files.sharing import shared_values
from mvdiff.files.writing import write_whole
from mvdiff.recipes.benchmarks.galleries import sample_galleries
from mvdiff.recipes.benchmarks.makers import Maker, code_warnings, scorer_of
from mvdiff.recipes.benchmarks.outcome import RowOutcome, SectionOutcome, TableOutcome, Verdict
from mvdiff.recipes.benchmarks.table import TRUTH
from mvdiff.recipes.page import print_tables
from mvdiff.recipes.scoring import Number
from mvdiff.report import Block, Details, Facts, Gallery, Note, Page, Section, Table, write_page
from mvdiff.report.differences import difference_table, not_compared
from mvdiff.report.markdown import markdown
from mvdiff.report.tables import NumberText
from mvdiff.samples import write_json

SCHEMA_VERSION = 1


def write_outcome(outcome: TableOutcome, out: Path) -> None:
    """Write `<out>/<table>.html`, `.md` and `.json`, and print tables and verdicts."""
    page, name = page_of(outcome), outcome.table.name
    write_page(out / f"{name}.html", page)
    write_whole(out / f"{name}.md", markdown(page))
    write_json(out / f"{name}.json", shared_values(json_of(outcome), out))
    missing = [line for section in outcome.sections for line in missing_of(section)]
    deviations = [line for section in outcome.sections for line in deviations_of(section)]
    print_tables([printed_table(one) for one in outcome.sections], [*summary_of(outcome), *missing, *deviations])


def page_of(outcome: TableOutcome) -> Page:
    """Return the page."""
    sections = [
        *(Section(f"scores-{one.section.task}", one.section.title, _scores(one)) for one in outcome.sections),
        *(_differences(one) for one in outcome.sections),
        *(
            Section(f"views-{one.section.task}", f"Views: {one.section.title}", galleries(one))
            for one in outcome.sections
        ),
        Section("provenance", "How this was made", [Facts(outcome.facts)]),
    ]
    return Page(outcome.table.title, summary_of(outcome), [section for section in sections if section.blocks])


def summary_of(outcome: TableOutcome) -> list[str]:
    """Return a sentence for every expectation, and warnings if rows were not scored by the code of one commit."""
    said = [sentence_of(verdict) for verdict in outcome.verdicts]
    return [*code_warnings(scorers_of(outcome)), *(said or ["No expectation was committed for this table."])]


def scorers_of(outcome: TableOutcome) -> dict[Maker, list[str]]:
    """Return the names of the rows that each commit scored."""
    scorers: dict[Maker, list[str]] = {}
    for row in outcome.rows:
        if row.results is not None:
            names = scorers.setdefault(scorer_of(row.results), [])
            names += [] if row.row.method in names else [row.row.method]  # two sections may have a row of one name
    return scorers


def sentence_of(verdict: Verdict) -> str:
    """Return an expectation with its answer and the differences that gave it."""
    parts = [f"{higher} − {lower}: {_told(one)}" for (higher, lower), one in verdict.pairs.items()]
    answer = verdict.answer[0].upper() + verdict.answer[1:]
    return f"{answer}: {verdict.expectation.sentence.removesuffix('.')} ({'; '.join(parts)})."


def scores_table(outcome: SectionOutcome) -> Table:
    """Return the table of a section: our numbers, then the published ones."""
    section, rows = outcome.section, outcome.rows
    numbers = [one for one in section.numbers if any(number_of(one, row) is not None for row in rows)]
    columns = ["row", "samples", *(one.column for one in numbers), *section.published]
    cells = []
    for row in rows:
        count = "missing" if row.results is None else row.results["generated"]["num_samples"]
        own = [None if (value := number_of(one, row)) is None else one.cell(value) for one in numbers]
        published = [NumberText(text) for text in row.row.published] or [None] * len(section.published)
        cells.append([row.row.label, count, *own, *published])
    references = [row.row.label for row in rows if row.row.is_reference]
    return Table(section.title, columns, cells, note_of(outcome), references)


def printed_table(outcome: SectionOutcome) -> Table:
    """Return our numbers alone, without intervals, for the terminal."""
    table, published = scores_table(outcome), {column.name for column in outcome.section.published}
    kept = [n for n, one in enumerate(table.headings) if one.name not in published]
    rows = [[cell[0] if isinstance(cell := row[n], tuple) else cell for n in kept] for row in table.rows]
    return replace(table, columns=[table.columns[n] for n in kept], rows=rows)


def number_of(number: Number, row: RowOutcome) -> float | Interval | None:
    """Return a number of a row; None if it has none, or if it is the distance of the real views to themselves."""
    key = number.path[0] if number.path else number.name
    entry = {} if row.results is None else row.results["metrics"].get(key, {"missing": ""})
    if "value" not in entry or (row.row.is_reference and "distance" in entry):
        return None
    return number.read(row.results, row.row.method) if not number.path or number.path[-1] in entry else None


def note_of(outcome: SectionOutcome) -> str:
    """Return the note below a table of scores: protocol, published numbers, names of the rows and remarks on them."""
    protocol, section = outcome.protocol, outcome.section
    named = {f"{one.row.label} ({one.row.method})": one.row.note for one in outcome.rows}
    remarks = "; ".join(f"{name}: {note}" if note else name for name, note in named.items())
    sentences = (
        f"Protocol {protocol.id} ({protocol.hash()[:12]}): {protocol.title}; 95% intervals over samples.",
        f"Published numbers are those of the paper: {section.published_on}. They are of other data at another size and "
        "compare only with each other.",
        section.note,
        f"Rows, with the names that `--only` takes: {remarks}.",
    )
    return " ".join(filter(None, sentences))


def missing_of(outcome: SectionOutcome) -> list[str]:
    """Return a sentence for every row that could not be made, with what it needs."""
    return [f"{one.row.label} ({one.row.method}) is missing: {one.need}" for one in outcome.rows if one.need]


def deviations_of(outcome: SectionOutcome) -> list[str]:
    """Return a sentence for everything that deviates from the protocol."""
    return [f"{one.row.method}: {line}" for one in outcome.rows for line in one.shortcomings]


def galleries(outcome: SectionOutcome) -> list[Gallery]:
    """Show the first samples, a row for each method that has them."""
    folders = {row.row.label: row.folder for row in outcome.rows if row.results is not None}
    ids = {name for results in outcome.results.values() for name in results["generated"].get("images", ())}
    return sample_galleries(folders, ids)


def json_of(outcome: TableOutcome) -> dict[str, Any]:
    """Return everything that the page says, and how it was made."""
    return {
        "schema_version": SCHEMA_VERSION,
        "table": outcome.table.name,
        "title": outcome.table.title,
        **outcome.facts,
        "seconds": dict(outcome.seconds),
        "sections": {one.section.task: _section_json(one) for one in outcome.sections},
        "expectations": [
            {
                "sentence": one.expectation.sentence,
                "task": one.expectation.task,
                "number": one.expectation.number,
                "answer": one.answer,
                "differences": [
                    {"higher": higher, "lower": lower, **({} if found is None else found.to_json())}
                    for (higher, lower), found in one.pairs.items()
                ],
            }
            for one in outcome.verdicts
        ],
    }


def _section_json(outcome: SectionOutcome) -> dict[str, Any]:
    references = [results["reference"] for results in outcome.results.values()]
    return {
        "title": outcome.section.title,
        "protocol": {"id": outcome.protocol.id, "hash": outcome.protocol.hash()},
        "reference": references[0].get("content_hash") if references else None,
        "published_on": outcome.section.published_on,
        "base": outcome.section.base,
        "rows": [_row_json(row, outcome) for row in outcome.rows],
        "differences": {
            method: {name: one.to_json() for name, one in found.items()}
            for method, found in outcome.differences.items()
        },
        "incomparable": outcome.incomparable,
    }


def _row_json(row: RowOutcome, outcome: SectionOutcome) -> dict[str, Any]:
    published = [column.name.removesuffix(", published") for column in outcome.section.published]
    described = {
        "method": row.row.method,
        "label": row.row.label,
        "published": dict(zip(published, map(float, row.row.published), strict=True)) if row.row.published else None,
        "needs": row.need or None,
    }
    if row.results is None:
        return described
    return described | {
        "protocol": protocol_line(row.results),
        "num_samples": row.results["generated"]["num_samples"],
        "content_hash": row.results["generated"].get("content_hash"),
        "shortcomings": row.shortcomings,
        "unchecked": row.results.get("unchecked", []),
        "run": row.results["run"],
        "metrics": {
            name: {key: value for key, value in entry.items() if key != "per_sample"}
            for name, entry in row.results["metrics"].items()
        },
    }


def _scores(outcome: SectionOutcome) -> list[Block]:
    lists = {"Missing rows": missing_of(outcome), "Deviations from the protocol": deviations_of(outcome)}
    listed = [Details(title, lines, is_open=True) for title, lines in lists.items() if lines]
    return [scores_table(outcome), *listed]


def _differences(outcome: SectionOutcome) -> Section:
    base, section = outcome.section.base, outcome.section
    tables = [difference_table(base, method, found) for method, found in outcome.differences.items()]
    left = [line for method, found in outcome.differences.items() for line in not_compared(method, found)]
    left += [f"{method}: {line}" for method, lines in outcome.incomparable.items() for line in lines]
    blocks: list[Block] = [table for table in tables if table is not None]
    blocks += [Details("Not compared", left)] if left else []
    if TRUTH in outcome.differences:
        blocks.append(Note("The distance of the ground truth to itself is 0 by construction."))
    return Section(f"differences-{section.task}", f"Differences to {base}: {section.title}", blocks)


def _told(one: Difference | None) -> str:
    if one is None or one.interval is None:
        return "no results" if one is None else str(one.reason)
    digits, ends = max(one.column.digits, 2), one.interval.ends
    interval = f" [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]" if ends else ", no interval"
    return f"{one.interval.estimate:+.{digits}f}{interval}, {one.num_samples} samples".replace("-", "−")
