"""Print the scores of `mvdiff benchmark` as Markdown, as docs/tables.md shows them: `python docs/paper_tables.py`.

They come from the files that the commands wrote, notes/tables/*.json.
"""

import json
from pathlib import Path

from mvdiff.recipes.benchmarks.outcome import RowOutcome, SectionOutcome
from mvdiff.recipes.benchmarks.page import scores_table
from mvdiff.recipes.benchmarks.table import PaperTable
from mvdiff.recipes.benchmarks.table1 import TABLE1
from mvdiff.recipes.benchmarks.table2 import TABLE2
from mvdiff.recipes.benchmarks.table3 import TABLE3
from mvdiff.report.markdown import markdown_table

WRITTEN = Path(__file__).resolve().parents[1] / "notes" / "tables"


def written(table: PaperTable) -> dict:
    """Return what the command wrote of a table."""
    return json.loads((WRITTEN / f"{table.name}.json").read_text(encoding="utf-8"))


def tables(table: PaperTable) -> dict[str, str]:
    """Return the scores of each section as a Markdown table, by task."""
    found = {}
    for section in table.sections:
        rows = [
            RowOutcome(section.row(row["method"]), Path(), _results(row), row["needs"] or "")
            for row in written(table)["sections"][section.task]["rows"]
        ]
        found[section.task] = markdown_table(scores_table(SectionOutcome(section, section.protocol("toy"), rows)))
    return found


def _results(row: dict) -> dict | None:
    """Return the results of a row as `mvdiff evaluate` names them; None of a missing row."""
    return {"metrics": row["metrics"], "generated": {"num_samples": row["num_samples"]}} if "metrics" in row else None


if __name__ == "__main__":
    for one in (TABLE1, TABLE2, TABLE3):
        print(f"{one.title}\n", *tables(one).values(), "", sep="\n\n")
