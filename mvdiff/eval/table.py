"""Lay out evaluation results as a table, and validate results read from a file."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from textwrap import fill
from typing import Any

from mvdiff.eval.metric import Column
from mvdiff.eval.metrics import metric_columns
from mvdiff.eval.text_table import text_table


def results_table(results: Mapping[str, Any], width: int) -> str:
    """Lay out the results of `mvdiff.eval.runner.evaluate` as text.

    The table has one row per number. Below it, one paragraph per number says how it was measured or why it is missing.

    Args:
        results: Results of an evaluation.
        width: Width of the text in characters; numbers are never cut.
    """
    generated = results["generated"]
    lost = generated.get("num_incomplete", 0) + generated.get("num_unreadable", 0)
    lost += len(generated.get("nested", ()))
    title = f"{generated['path']}: {generated['num_samples']} samples" + (f", {lost} left out" if lost else "")
    entries = results["metrics"]
    columns = {"value": "value", "interval": "95% interval", "reference": "reference", "ratio_to_reference": "ratio"}
    columns = {key: head for key, head in columns.items() if any(key in entry for entry in entries.values())}
    columns = columns or {"value": "value"}
    rows = []
    for name, entry in entries.items():
        cells = [_cell(entry.get(key)) for key in columns]
        rows.append([name, *(["missing", *cells[1:]] if "missing" in entry else cells)])
    lines = (f"{name}{_kind(result_column(results, name), entry)}: {how(entry)}" for name, entry in entries.items())
    paragraphs = [fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
    title += f"\n{protocol_line(results)}"
    return "\n".join([title, "", text_table(["metric", *columns.values()], rows, width), "", *paragraphs])


def protocol_line(results: Mapping[str, Any]) -> str:
    """Name the protocol of results with the first digits of its hash, and count the deviations.

    Example:
        >>> protocol_line({"protocol": {"id": "custom", "hash": 64 * "0"}, "deviations": []})
        'protocol custom (000000000000)'
        >>> protocol_line({})
        'protocol not recorded (file of an earlier version)'
    """
    protocol = results.get("protocol")
    if protocol is None:
        return "protocol not recorded (file of an earlier version)"
    count = len(results.get("deviations", ()))
    said = "" if not count else ", 1 deviation" if count == 1 else f", {count} deviations"
    return f"protocol {protocol['id']} ({protocol['hash'][:12]}){said}"


def result_column(results: Mapping[str, Any], name: str) -> Column:
    """Return the column of a number: from the results if recorded there, else from the packaged metric.

    Example:
        >>> result_column({}, "fid").higher_is_better, result_column({}, "my_number").title
        (False, 'my number')
    """
    described = results.get("columns", {}).get(name)
    if described is not None:
        return Column(name, **described)
    return metric_columns().get(name) or Column(name, name.replace("_", " "), digits=4)


def how(entry: Mapping[str, Any]) -> str:
    """Describe how a number was measured (model, counts, variant, samples, interval, notes), or why it is missing.

    Example:
        >>> how({"value": 1.0, "model": "homography", "num_pairs": 8, "variant": "mean over pairs"})
        'homography; 8 pairs; mean over pairs'
    """
    if "missing" in entry:
        return f"missing: {entry['missing']}"
    parts = [entry["model"] + (f" (sha256 {entry['weights_hash'][:8]})" if "weights_hash" in entry else "")]
    counts = {"num_images": "images", "num_reference_images": "reference images", "num_pairs": "pairs"}
    parts += [f"{entry[key]} {word}" for key, word in counts.items() if key in entry]
    parts += [entry[key] for key in ("variant",) if key in entry]
    samples = {"num_samples": "samples", "num_reference_samples": "of the reference", "num_paired_samples": "in both"}
    counted = [f"{entry[key]} {word}" for key, word in samples.items() if key in entry]
    parts += [", ".join(counted)] if counted else []
    parts += [f"no interval: {entry['interval_rule'].removeprefix('none: ')}"] if _lacks_interval(entry) else []
    parts += [entry[key] for key in ("note",) if key in entry]
    parts += entry.get("lacks", ())
    return "; ".join(parts)


def check_results(results: Mapping[str, Any], where: str) -> None:
    """Check the entries that reports and tables read from a results file.

    Args:
        results: Content of the file; must have `generated` and `metrics`, see `mvdiff.eval.runner.evaluate`.
        where: File named in errors.

    Raises:
        ValueError: An entry has the wrong type.

    Example:
        >>> check_results({"generated": {"path": "out"}, "metrics": {"fid": {"value": None}}}, "results.json")
        Traceback (most recent call last):
        ...
        ValueError: metrics.fid.value must be a number; got None, in results.json. Evaluate again.
    """

    def need(valid: bool, name: str, requirement: str, got: object) -> None:
        if not valid:
            raise ValueError(f"{name} must be {requirement}; got {reprlib.repr(got)}, in {where}. Evaluate again.")

    generated, reference = results["generated"], results.get("reference")
    named = isinstance(generated, Mapping) and isinstance(generated.get("path"), str)
    need(named, "generated", "an object with the path of the samples", generated)
    need(reference is None or isinstance(reference, Mapping), "reference", "an object or null", reference)
    need(isinstance((reference or {}).get("path", ""), str), "reference", "an object with a path", reference)
    version, protocol = results.get("schema_version", 1), results.get("protocol")
    need(version in (1, 2) and not isinstance(version, bool), "schema_version", "1 or 2", version)
    named = isinstance(protocol, Mapping) and all(isinstance(protocol.get(key), str) for key in ("id", "hash"))
    need(named or (protocol is None and version == 1), "protocol", "an object with id and hash", protocol)
    sentences = results.get("deviations", [])
    is_list = isinstance(sentences, list) and all(isinstance(one, str) for one in sentences)
    need(is_list, "deviations", "a list of texts", sentences)
    columns = results.get("columns", {})
    need(isinstance(columns, Mapping), "columns", "an object", columns)
    for metric, column in columns.items():
        kinds = {"title": str, "unit": str, "higher_is_better": bool | None, "digits": int}
        fits = isinstance(column, Mapping) and set(column) <= set(kinds) and "title" in column
        fits = fits and all(isinstance(value, kinds[key]) for key, value in column.items())
        fits = fits and 0 <= column.get("digits", 0) <= 20
        need(fits, f"columns.{metric}", "an object with title, unit, higher_is_better and digits", column)
    for metric, entry in results["metrics"].items():
        name = f"metrics.{metric}"
        valid = isinstance(entry, Mapping) and ("value" in entry or "missing" in entry)
        need(valid, name, "an object with value and model, or with missing", entry)
        texts = (
            ["missing"]
            if "missing" in entry
            else ["model", *({"weights_hash", "variant", "note", "interval_rule"} & set(entry))]
        )
        if "missing" not in entry:
            need(_is_number(entry["value"]), f"{name}.value", "a number", entry["value"])
        for key in sorted(texts):
            need(isinstance(entry.get(key), str), f"{name}.{key}", "a text", entry.get(key))
        lacks = entry.get("lacks", [])
        is_list = isinstance(lacks, list) and all(isinstance(one, str) for one in lacks)
        need(is_list, f"{name}.lacks", "a list of texts", lacks)
        theirs, interval = entry.get("reference"), entry.get("interval")
        need(theirs is None or _is_number(theirs), f"{name}.reference", "a number", theirs)
        pair = isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))
        need(interval is None or pair, f"{name}.interval", "two numbers", interval)


def _lacks_interval(entry: Mapping[str, Any]) -> bool:
    return "interval" not in entry and "interval_rule" in entry


def _kind(column: Column, entry: Mapping[str, Any]) -> str:
    """Return unit and direction in brackets, or "" for a missing number."""
    better = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
    words = [word for word in (column.unit, better) if word and "value" in entry]
    return f" ({', '.join(words)})" if words else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: float | list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value[0]:.4g} .. {value[1]:.4g}" if isinstance(value, list) else f"{value:.4g}"
