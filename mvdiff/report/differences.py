"""Tables and the page of `mvdiff compare`: one table per method, with one row per number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mvdiff.eval.comparison import Difference
from mvdiff.report.blocks import Block, Details, Facts, Note
from mvdiff.report.pages import Page, Section
from mvdiff.report.tables import NumberText, Table

_ARROWS = {True: " ↑", False: " ↓", None: ""}


def difference_table(base: str, method: str, differences: Mapping[str, Difference]) -> Table | None:
    """Tabulate the differences of one method from the base; None if no number was compared.

    Args:
        base: Name of the base.
        method: Name of the method.
        differences: Result of `mvdiff.eval.comparison.compare`.
    """
    compared = {name: one for name, one in differences.items() if one.interval is not None}
    if not compared:
        return None
    columns = ["number", base, method, f"{method} − {base}", "95% interval", "samples", f"{method} is"]
    rows = [
        [
            _heading(one),
            _number(one.base, one),
            _number(one.value, one),
            _number(one.interval.estimate, one, sign="+"),
            NumberText("\u00a0to\u00a0".join(_number(end, one, sign="+") for end in one.interval.ends or ()) or "–"),
            one.num_samples,
            one.verdict,
        ]
        for one in compared.values()
    ]
    note = (
        f"{method} − {base} over the samples that both have. ↑ higher is better, ↓ lower is better. “No difference "
        f"shown”: the interval holds 0. Intervals: {_rules(compared)}."
    )
    return Table(f"{method} compared with {base}", columns, rows, note)


def not_compared(method: str, differences: Mapping[str, Difference]) -> list[str]:
    """Return a sentence for each number that was not compared."""
    reasons: dict[str, list[str]] = {}
    for name, one in differences.items():
        if one.interval is None:
            reasons.setdefault(str(one.reason), []).append(name)
    return [f"{method}, not compared: {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def difference_page(
    title: str,
    base: str,
    differences: Mapping[str, Mapping[str, Difference]],
    facts: Mapping[str, object],
    differing: Sequence[str] = (),
    warning: str | None = None,
) -> Page:
    """Return the page.

    Args:
        title: Heading.
        base: Name of the base.
        differences: Differences of each method.
        facts: What was compared.
        differing: Sentences about what differs between the results, see `mvdiff.eval.comparability`.
        warning: Sentence about the code and machines that made them, see there; None: they are the same.
    """
    tables = [difference_table(base, method, ones) for method, ones in differences.items()]
    left = [line for method, ones in differences.items() for line in not_compared(method, ones)]
    blocks: list[Block] = [Details("The results differ in more than the method", list(differing), is_open=True)]
    blocks = (blocks if differing else []) + [table for table in tables if table is not None]
    blocks += [] if warning is None else [Note(warning)]
    blocks += [Details("Numbers that were not compared", left)] if left else []
    sections = [
        Section("differences", "Differences", blocks),
        Section("provenance", "How this was made", [Facts(facts)]),
    ]
    return Page(title, sections=sections)


def _heading(one: Difference) -> str:
    unit = f" ({one.column.unit})" if one.column.unit else ""
    return f"{one.column.title}{unit}{_ARROWS[one.column.higher_is_better]}"


def _number(value: float | None, one: Difference, sign: str = "") -> NumberText:
    """Format a number with the decimals of its column, and enough of them to show the interval's width."""
    digits, ends = one.column.digits, one.interval.ends if one.interval else None
    if ends and ends[1] > ends[0]:
        digits = max(digits, math.ceil(-math.log10(ends[1] - ends[0])) + 1)
    return NumberText(f"{value:{sign},.{min(digits, 12)}f}".replace("-", "−"))


def _rules(compared: Mapping[str, Difference]) -> str:
    rules: dict[str, list[str]] = {}
    for one in compared.values():
        rules.setdefault(one.interval.rule, []).append(one.column.title)
    if len(rules) == 1:
        return next(iter(rules))
    return "; ".join(f"{rule} ({'; '.join(titles)})" for rule, titles in rules.items())
