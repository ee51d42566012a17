"""The tables of the ablations, and the same as sentences and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvdiff.eval.intervals import Interval
from mvdiff.eval.metrics import metric_columns
from mvdiff.eval.protocol import Protocol
from mvdiff.recipes.benchmarks.ablation_numbers import SeedMean
from mvdiff.recipes.benchmarks.ablation_rows import COSTS, KERNEL, NUMBERS, ZNCC, AblationOutcome
from mvdiff.recipes.benchmarks.ablation_settings import BASE, AblationScale
from mvdiff.recipes.benchmarks.makers import code_warnings, machine_warnings, told_makers
from mvdiff.recipes.scoring import CONTENT, PSNR
from mvdiff.report import Column, Table
from mvdiff.report.tables import NumberText

DIGITS = {PSNR: 1, ZNCC: 3, KERNEL: 4, CONTENT: 3}
DIFFERENCE_DIGITS = DIGITS | {PSNR: 2, ZNCC: 4}
COST_COLUMNS = {
    "seconds_per_step": Column("time of a step", "s"),
    "cpu_seconds_per_step": Column("processor time of a step", "s"),
    "peak_memory_bytes": Column("peak memory", "MB", digits=0),
}
SCALES = {"peak_memory_bytes": 1e-6}


def ablation_tables(outcome: AblationOutcome, scale: AblationScale, protocol: Protocol) -> list[Table]:
    """Return the table of variants and, where there are any, that of the differences."""
    tables = [_variants(outcome, scale, protocol), _differences(outcome)]
    return [table for table in tables if table.rows]


def ablation_sentences(outcome: AblationOutcome) -> list[str]:
    """Return a sentence for each variant that is compared, each missing number, each deviation, and for runs that
    were not made alike."""
    lines = [*code_warnings(outcome.makers), *machine_warnings(outcome.makers)]
    for row in outcome.rows.values():
        if row.differences:
            lines.append(f"{row.title} against {outcome.rows[BASE].title}: {_compared(row.differences)}.")
    if BASE not in outcome.rows:
        lines.append(f"Nothing is compared: {BASE} is not trained yet.")
    lines += [f"{column_of(metric).name} is missing: {reason}" for metric, reason in outcome.missing.items()]
    return lines + [f"Not as the protocol says: {line}." for line in outcome.deviations]


def ablation_values(outcome: AblationOutcome) -> dict[str, Any]:
    """Return everything that the tables say as JSON values."""

    def named(found: Mapping[str, SeedMean]) -> dict[str, Any]:
        return {metric: one.to_json() for metric, one in found.items()}

    rows = {
        name: {
            "title": row.title,
            "attention": None if row.variant is None else row.variant.attention,
            "num_parameters": row.num_parameters,
            "seeds": None if row.variant is None else list(row.runs),
            "numbers": named(row.numbers),
            "differences": {
                metric: one.to_json() | {"verdict": verdict(one)} for metric, one in row.differences.items()
            },
            "costs": dict(row.costs),
        }
        for name, row in outcome.rows.items()
    }
    made_by = [{**maker._asdict(), "runs": names} for maker, names in outcome.makers.items()]
    about = {"kernel_network": outcome.network or None, "missing": outcome.missing, "deviations": outcome.deviations}
    return {"base": BASE, "made_by": made_by, "rows": rows, **about}


def column_of(metric: str) -> Column:
    """Return the column of a number."""
    return Column.of_metric(metric_columns()[metric], digits=DIGITS[metric])


def verdict(difference: SeedMean) -> str:
    """Return "higher" or "lower" than the base variant, or that no difference is shown."""
    if not difference.is_shown:
        return "no difference shown"
    return "higher" if difference.interval.estimate > 0 else "lower"


def _compared(differences: Mapping[str, SeedMean]) -> str:
    """Name the differences that are shown, with their sizes, then the numbers without one."""
    shown, rest = [], []
    for metric, one in differences.items():
        column = column_of(metric)
        if one.is_shown:
            size = f"{abs(one.interval.estimate):.{DIFFERENCE_DIGITS[metric]}f} {column.unit}".strip()
            shown.append(f"{column.name} {verdict(one)} by {size}")
        else:
            rest.append(column.name)
    return "; ".join([*shown, *([f"no difference shown in {' and '.join(rest)}"] if rest else [])])


def _variants(outcome: AblationOutcome, scale: AblationScale, protocol: Protocol) -> Table:
    columns = ["variant", "trainings", "parameters", *map(column_of, NUMBERS), *COST_COLUMNS.values()]
    cells = []
    for row in outcome.rows.values():
        numbers = [_cell(row.numbers[metric].interval) if metric in row.numbers else None for metric in NUMBERS]
        costs = [SCALES.get(cost, 1) * row.costs[cost] if row.costs else None for cost in COSTS]
        trainings = None if row.variant is None else len(row.runs)
        cells.append([row.title, trainings, row.num_parameters, *numbers, *costs])
    references = [row.title for row in outcome.rows.values() if row.variant is None]
    network = f" {column_of(KERNEL).name}: {outcome.network}." if outcome.network else ""
    made = f" Runs made at: {told_makers(outcome.makers)}." if outcome.makers else ""
    note = (
        f"{scale.max_steps} steps of {scale.batch_size} panoramas, on {scale.rooms} toy rooms of seed "
        f"{scale.train_seed}; means over the seeds of the trainings. Protocol {protocol.id} ({protocol.hash()[:12]}): "
        f"{protocol.title}. 95% intervals over panoramas, each drawn for all seeds together: they hold for these "
        "trainings. Overlap PSNR also rewards a loss of contrast, the overlap correlation does not. Times are medians "
        f"of steps on this machine, beside whatever else it did.{network}{made}"
    )
    return Table("Attention across views", columns, cells, note, references)


def _differences(outcome: AblationOutcome) -> Table:
    rows = []
    for row in outcome.rows.values():
        for metric, found in row.differences.items():
            digits = DIFFERENCE_DIGITS[metric]
            seeds = ", ".join(signed(value, digits) for value in found.by_seed.values())
            difference = NumberText(_text(found.interval, digits))
            rows.append([row.title, column_of(metric).name, difference, seeds, verdict(found)])
    note = (
        "Paired by seed of the training and by panorama, on equal captions and noise; intervals as above. A difference "
        "counts as shown only if its interval leaves out 0 and every seed has its sign."
    )
    title = f"Paired differences to {outcome.rows[BASE].title}" if BASE in outcome.rows else "Paired differences"
    return Table(title, ["variant", "number", "difference", "by seed", "verdict"], rows, note)


def _cell(value: Interval) -> object:
    return value.estimate if value.ends is None else (value.estimate, *value.ends)


def _text(value: Interval, digits: int) -> str:
    ends = "" if value.ends is None else f" [{', '.join(signed(end, digits) for end in value.ends)}]"
    return f"{signed(value.estimate, digits)}{ends}"


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, as differences are shown."""
    return f"{value:+.{digits}f}".replace("-", "−")
