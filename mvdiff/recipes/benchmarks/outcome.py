"""What a run of a table found: rows with their results, paired differences, and verdicts on the expectations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvdiff.eval.comparability import differing
from mvdiff.eval.comparison import Difference, compare
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.protocol import Protocol
from mvdiff.eval.shortcomings import shortcomings
from mvdiff.recipes.benchmarks.scores import MethodResults
from mvdiff.recipes.benchmarks.table import Expectation, MethodRow, PaperTable, TableSection

Answer = Literal["held", "did not hold", "not decided"]


@dataclass
class RowOutcome:
    """One row.

    Attributes:
        row: The row.
        folder: Folder of its samples.
        results: Its results, as they are in the file; None if there are none.
        need: Command or file that it needs, or another reason why there are no results.
        is_failure: True if it was asked for and could not be made.
    """

    row: MethodRow
    folder: Path
    results: MethodResults | None = None
    need: str = ""
    is_failure: bool = False

    @property
    def shortcomings(self) -> list[str]:
        """Deviations from the protocol, and what is missing or left out, as `mvdiff evaluate --strict` finds them."""
        return [] if self.results is None else shortcomings(self.results)


@dataclass
class SectionOutcome:
    """One section.

    Attributes:
        section: The section.
        protocol: Its protocol.
        rows: Rows in the order of the table.
        differences: Differences to the base by method and number.
        incomparable: By method, what keeps its results from being compared with those of the base.
    """

    section: TableSection
    protocol: Protocol
    rows: list[RowOutcome] = field(default_factory=list)
    differences: dict[str, Mapping[str, Difference]] = field(default_factory=dict)
    incomparable: dict[str, list[str]] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, MethodResults]:
        """MethodResults by method."""
        return {row.row.method: row.results for row in self.rows if row.results is not None}

    def compare(self, cache: FeatureCache) -> None:
        """Compare every row with the base, as `mvdiff compare --cache` does."""
        results, name = self.results, self.section.base
        base = results.get(name)
        for method, other in results.items() if base is not None else ():
            if method == name:
                continue
            lines = differing(base, other, (name, method))
            if lines:
                self.incomparable[method] = lines
            else:
                self.differences[method] = compare(base, other, (name, method), cache)


@dataclass(frozen=True)
class Verdict:
    """Answer to an expectation.

    Attributes:
        expectation: The expectation.
        answer: "held" if every pair of methods shows it, "did not hold" if one shows the opposite, else "not decided".
        pairs: Differences, higher - lower, by (higher, lower); None where a row has no results.
    """

    expectation: Expectation
    answer: Answer
    pairs: Mapping[tuple[str, str], Difference | None]


def verdict_of(expectation: Expectation, results: Mapping[str, MethodResults], cache: FeatureCache | None) -> Verdict:
    """Decide an expectation by the paired differences that `mvdiff compare` gives.

    Args:
        expectation: The expectation.
        results: Results of its section by method.
        cache: Features of all images, for distances.
    """
    pairs = {pair: _difference(*pair, expectation.number, results, cache) for pair in expectation.higher}
    intervals = [None if one is None else one.interval for one in pairs.values()]
    if any(one is not None and one.is_below(0) for one in intervals):
        return Verdict(expectation, "did not hold", pairs)
    held = all(one is not None and one.is_above(0) for one in intervals)
    return Verdict(expectation, "held" if held else "not decided", pairs)


def _difference(
    higher: str, lower: str, number: str, results: Mapping[str, MethodResults], cache: FeatureCache | None
) -> Difference | None:
    """Return `higher - lower`; None if one of them has no results, or they differ in more than the method."""
    if not {higher, lower} <= results.keys() or differing(results[lower], results[higher], (lower, higher)):
        return None
    base, other = (
        {**results[name], "metrics": {key: entry for key, entry in results[name]["metrics"].items() if key == number}}
        for name in (lower, higher)
    )
    return compare(base, other, (lower, higher), cache).get(number)


@dataclass
class TableOutcome:
    """A table.

    Attributes:
        table: The table.
        sections: Its sections.
        verdicts: Answers to its expectations.
        facts: Facts about the run, for the page.
        seconds: Seconds of this run by step.
    """

    table: PaperTable
    sections: Sequence[SectionOutcome]
    verdicts: Sequence[Verdict] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> list[RowOutcome]:
        """Rows of all sections."""
        return [row for section in self.sections for row in section.rows]

    @property
    def is_finished(self) -> bool:
        """True if every row that was asked for has results under its protocol."""
        return not any(row.is_failure or row.shortcomings for row in self.rows)
