"""Results of `mvdiff evaluate` as a table: a row per method, a column per number, and how each came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvdiff.eval.table import how
from mvdiff.report import Column, Table

_NUMBERS = {
    "fid": Column("FID", "", "lower", 2),
    "inception_score": Column("Inception Score", "", "higher", 2),
    "clip_score": Column("CLIP score", "", "higher", 2),
    "overlap_psnr_mean_of_pairs": Column("overlap PSNR, mean of pairs", "dB", "higher", 2),
    "overlap_psnr_pooled": Column("overlap PSNR, pooled", "dB", "higher", 2),
    "toy_fid": Column("toy FID", "toy-features", "lower", 2),
    "toy_inception_score": Column("toy IS", "toy-features", "higher", 2),
    "caption_agreement": Column("caption agreement", "share", "higher", 3),
    "label_agreement": Column("label agreement", "share", "higher", 3),
    "thing_colours": Column("things of the captioned colour", "share", "higher", 3),
    "known_psnr": Column("given pixels, not put back, PSNR", "dB", "higher", 2),
    "given_overlap_psnr": Column("neighbours against the given views, PSNR", "dB", "higher", 2),
    "sharpness_gradient_energy": Column("sharpness, gradient energy", "grey²", None, 5),  # noise raises it, too
    "sharpness_laplacian_variance": Column("sharpness, variance of the Laplacian", "grey²", None, 5),
}
TRUTH_ROW = "ground truth"


def scores_table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> Table | None:
    """Lay the results of methods out side by side; a number that no method has is no column.

    Args:
        results: (method, what `mvdiff.eval.runner.evaluate` returned) of each.

    Returns:
        The table, or None without a single metric. What is missing stands in the note with its reason.
    """
    metrics = list(dict.fromkeys(name for _, values in results for name in values["metrics"]))
    if not metrics:
        return None
    shown = [name for name in metrics if any("value" in _entry(values, name) for _, values in results)]
    columns = [_named(name) for name in shown]
    rows = [[method, *(_cell(_entry(values, name)) for name in shown)] for method, values in results]
    references = []
    first = results[0][1]
    truth = [_entry(first, name).get("reference") for name in shown]
    if any(value is not None for value in truth):
        rows.append([TRUTH_ROW, *truth])
        references.append(TRUTH_ROW)
    return Table("Results of mvdiff evaluate", ["method", *columns], rows, _note(results, metrics), references)


def _named(name: str) -> Column:
    return _NUMBERS.get(name, Column(name.replace("_", " "), "", None, 4))


def _entry(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return values["metrics"].get(name) or {}


def _cell(entry: Mapping[str, Any]) -> object:
    if entry.get("interval") is not None and "value" in entry:
        return (entry["value"], *entry["interval"])
    return entry.get("value")


def _note(results: Sequence[tuple[str, Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """Say of every number how it was measured, once where methods share it."""
    parts = []
    for name in metrics:
        said: dict[str, list[str]] = {}
        for method, values in results:
            entry = _entry(values, name)
            said.setdefault(how(entry) if entry else "missing: it was not asked for", []).append(method)
        for text, methods in said.items():
            of = f" ({', '.join(methods)})" if len(said) > 1 else ""
            parts.append(f"{_named(name).name}{of}: {text.rstrip('.')}.")
    return " ".join(parts)
