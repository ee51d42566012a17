"""Print results as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def results_table(results: Mapping[str, Any]):
    """Lay results out as a rich Table: one row per number, with what measured it and on how much.

    Args:
        results: What `mvdiff.eval.runner.evaluate` returned.

    Returns:
        A ``rich.table.Table``; what is missing stands in it with the reason.
    """
    from rich.markup import escape
    from rich.table import Table

    generated = results["generated"]
    lost = generated.get("num_incomplete", 0) + generated.get("num_unreadable", 0)
    title = f"{generated['path']}: {generated['num_samples']} samples" + (f", {lost} left out" if lost else "")
    table = Table(title=escape(title))
    for column in ("metric", "value", "95% interval", "reference", "ratio"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    table.add_column("measured with", overflow="fold")
    for name, entry in results["metrics"].items():
        if "missing" in entry:
            table.add_row(name, "missing", "", "", "", escape(entry["missing"]))
            continue
        interval = entry.get("interval")
        table.add_row(
            name,
            number(entry["value"]),
            f"{number(interval[0])} .. {number(interval[1])}" if interval else "",
            number(entry.get("reference")),
            number(entry.get("ratio_to_reference")),
            escape(_measured_with(entry)),
        )
    return table


def number(value: float | None) -> str:
    """Format a number with four significant digits; nothing for None.

    Example:
        >>> number(21.4371), number(0.000123), number(None)
        ('21.44', '0.000123', '')
    """
    return "" if value is None else f"{value:.4g}"


def _measured_with(entry: Mapping[str, Any]) -> str:
    parts = [entry["model"]]
    if "weights_hash" in entry:
        parts.append(f"sha256 {entry['weights_hash'][:8]}")
    for key, word in (("num_images", "images"), ("num_pairs", "pairs")):
        if key in entry:
            parts.append(f"{entry[key]} {word}")
    return ", ".join(parts)
