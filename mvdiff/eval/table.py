"""Print results as a table, and under it what each number was measured with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def results_table(results: Mapping[str, Any]):
    """Lay results out for the terminal: a row per number, then a line per number on how it came about.

    Args:
        results: What `mvdiff.eval.runner.evaluate` returned.

    Returns:
        A rich renderable; what is missing stands in it with the reason.
    """
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    generated = results["generated"]
    lost = generated.get("num_incomplete", 0) + generated.get("num_unreadable", 0)
    title = f"{generated['path']}: {generated['num_samples']} samples" + (f", {lost} left out" if lost else "")
    entries = results["metrics"]
    table = Table(title=escape(title), title_justify="left", box=SIMPLE)
    table.add_column("metric", no_wrap=True)
    columns = {"value": "value", "interval": "95% interval", "reference": "reference", "ratio_to_reference": "ratio"}
    columns = {key: head for key, head in columns.items() if any(key in entry for entry in entries.values())}
    for head in columns.values():
        table.add_column(head, justify="right", no_wrap=True)
    for name, entry in entries.items():
        cells = ["missing"] if "missing" in entry else [_cell(entry.get(key)) for key in columns]
        table.add_row(name, *cells)
    return Group(table, *(Text(f"{name}: {how(entry)}") for name, entry in entries.items()))


def how(entry: Mapping[str, Any]) -> str:
    """Say what a number was measured with, on how much, in which variant; or why it is missing.

    Example:
        >>> how({"value": 1.0, "model": "homography", "num_pairs": 8, "variant": "mean over pairs"})
        'homography; 8 pairs; mean over pairs'
    """
    if "missing" in entry:
        return f"missing: {entry['missing']}"
    parts = [entry["model"] + (f" (sha256 {entry['weights_hash'][:8]})" if "weights_hash" in entry else "")]
    counts = {"num_images": "images", "num_reference_images": "reference images", "num_pairs": "pairs"}
    parts += [f"{entry[key]} {word}" for key, word in counts.items() if key in entry]
    parts += [entry[key] for key in ("variant", "note") if key in entry]
    return "; ".join(parts)


def _cell(value: float | list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value[0]:.4g} .. {value[1]:.4g}" if isinstance(value, list) else f"{value:.4g}"
