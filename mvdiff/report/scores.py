"""Tabulate results of `mvdiff evaluate`: one row per method, one column per number, and a note on each number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvdiff.eval.table import how, protocol_line, result_column
from mvdiff.files.sharing import shared_text
from mvdiff.report.tables import Column, Table

TRUTH_ROW = "ground truth"


def scores_table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> Table | None:
    """Tabulate the results of several methods; numbers that no method has are omitted.

    Args:
        results: (method, result of `mvdiff.eval.runner.evaluate`) pairs.

    Returns:
        The table, whose note gives the reason for each missing number; None if there are no metrics.
    """
    metrics = list(dict.fromkeys(name for _, values in results for name in values["metrics"]))
    if not metrics:
        return None
    shown = [name for name in metrics if any("value" in _entry(values, name) for _, values in results)]
    columns = [_named(results, name) for name in shown]
    rows = [[method, *(_cell(_entry(values, name)) for name in shown)] for method, values in results]
    truth = [_entry(results[0][1], name).get("reference") for name in shown]
    references = [TRUTH_ROW] if any(value is not None for value in truth) else []
    rows += [[name, *truth] for name in references]
    note = f"{_protocols(results)} {_note(results, metrics)}"
    return Table("Results of mvdiff evaluate", ["method", *columns], rows, note, references)


def _named(results: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> Column:
    """Return the column of a number, described by the first results that have it."""
    return Column.of_metric(result_column(next(values for _, values in results if name in values["metrics"]), name))


def _entry(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return values["metrics"].get(name) or {}


def _cell(entry: Mapping[str, Any]) -> object:
    if entry.get("interval") is not None and "value" in entry:
        return (entry["value"], *entry["interval"])
    return entry.get("value")


def _protocols(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Name the protocol of each method, and what deviates from it."""
    methods_by_text: dict[str, list[str]] = {}
    for method, values in results:
        line = protocol_line(values)
        text = "; ".join([f"{line[:1].upper()}{line[1:]}", *values.get("deviations", ())])
        methods_by_text.setdefault(text, []).append(method)
    if len(methods_by_text) == 1:
        return f"{next(iter(methods_by_text))}."
    return " ".join(f"{', '.join(methods)}: {text}." for text, methods in methods_by_text.items())


def _note(results: Sequence[tuple[str, Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    parts = []
    for name in metrics:
        methods_by_text: dict[str, list[str]] = {}
        for method, values in results:
            entry = _entry(values, name)
            methods_by_text.setdefault(shared_text(how(entry)) if entry else "missing: not requested", []).append(
                method
            )
        for text, methods in methods_by_text.items():
            of = f" ({', '.join(methods)})" if len(methods_by_text) > 1 else ""
            parts.append(f"{_named(results, name).name}{of}: {text.rstrip('.')}.")
    return " ".join(parts)
