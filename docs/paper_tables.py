"""Print the scores of `mvdiff benchmark` as Markdown, as docs/tables.md shows them: `python docs/paper_tables.py`.

They come from the files that the commands wrote, notes/tables/*.json.
"""

import json
from pathlib import Path

from mvdiff.recipes.benchmarks.ablation_rows import COSTS, NUMBERS
from mvdiff.recipes.benchmarks.ablation_table import COST_COLUMNS, DIFFERENCE_DIGITS, SCALES, column_of, signed
from mvdiff.recipes.benchmarks.outcome import RowOutcome, SectionOutcome
from mvdiff.recipes.benchmarks.page import scores_table
from mvdiff.recipes.benchmarks.table import PaperTable, TableSection
from mvdiff.recipes.benchmarks.table1 import TABLE1
from mvdiff.recipes.benchmarks.table2 import TABLE2
from mvdiff.recipes.benchmarks.table3 import TABLE3
from mvdiff.report import Table
from mvdiff.report.markdown import markdown_table

WRITTEN = Path(__file__).resolve().parents[1] / "notes" / "tables"
BASES = {"UNet": "table1", "transformer": "table1-transformer"}
"""Files of Table 1 by the base of its model."""
WITHOUT_AND_WITH = ("independent", "mvdiffusion")


def written(name: str) -> dict:
    """Return what the command wrote into a file."""
    return json.loads((WRITTEN / f"{name}.json").read_text(encoding="utf-8"))


def tables(table: PaperTable) -> dict[str, str]:
    """Return the scores of each section as a Markdown table, by task."""
    sections = written(table.name)["sections"]
    return {section.task: _scores(section, sections[section.task]["rows"]) for section in table.sections}


def two_bases() -> str:
    """Return the rows of Table 1 without and with CAA on both bases, as one Markdown table."""
    (section,), lines = TABLE1.sections, []
    for base, name in BASES.items():
        rows = written(name)["sections"][section.task]["rows"]
        head, rule, *found = _scores(section, [row for row in rows if row["method"] in WITHOUT_AND_WITH]).splitlines()
        lines += [f"| {base} {line}" for line in found]
    return "\n".join([f"| base {head}", f"| --- {rule}", *lines])


def ablations() -> tuple[str, str]:
    """Return the scores of the ablations and their paired differences, each as a Markdown table."""
    scores, differences = [], []
    for row in written("ablations")["rows"].values():
        numbers, costs = row["numbers"], row["costs"]
        scores.append(
            [row["title"], len(row["seeds"]) if row["seeds"] else None]
            + [(numbers[name]["value"], *numbers[name]["interval"]) if name in numbers else None for name in NUMBERS]
            + [SCALES.get(name, 1) * costs[name] if costs else None for name in COSTS]
        )
        for name, one in row["differences"].items():
            value, low, high, *by_seed = (
                signed(value, DIFFERENCE_DIGITS[name])
                for value in (one["value"], *one["interval"], *one["by_seed"].values())
            )
            told = f"{value} [{low}, {high}]"
            differences.append([row["title"], column_of(name).name, told, ", ".join(by_seed), one["verdict"]])
    columns = ["variant", "trainings", *map(column_of, NUMBERS), *COST_COLUMNS.values()]
    named = ["variant", "number", "difference", "by seed", "verdict"]
    return tuple(markdown_table(Table("", *table)) for table in ((columns, scores), (named, differences)))


def _scores(section: TableSection, rows: list[dict]) -> str:
    """Return rows of a file as a Markdown table."""
    found = [RowOutcome(section.row(row["method"]), Path(), _results(row), row["needs"] or "") for row in rows]
    return markdown_table(scores_table(SectionOutcome(section, section.protocol("toy"), found)))


def _results(row: dict) -> dict | None:
    """Return the results of a row as `mvdiff evaluate` names them; None of a missing row."""
    return {"metrics": row["metrics"], "generated": {"num_samples": row["num_samples"]}} if "metrics" in row else None


if __name__ == "__main__":
    for one in (TABLE1, TABLE2, TABLE3):
        print(f"{one.title}\n", *tables(one).values(), "", sep="\n\n")
    print("Two bases\n", two_bases(), sep="\n\n")
    print("Ablations\n", *ablations(), sep="\n\n")
