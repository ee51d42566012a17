"""Run a table: world, samples, scores, differences, page; each step is announced and timed, and a rerun continues."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields

from mvdiff.eval.checks import taken_by
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.metric_specs import parse_specs
from mvdiff.eval.provenance import code_name, library_versions
from mvdiff.eval.sources import FolderSource
from mvdiff.files.sharing import shared_name, shared_text
from mvdiff.recipes.benchmarks.models import missing_models
from mvdiff.recipes.benchmarks.outcome import RowOutcome, SectionOutcome, TableOutcome, verdict_of
from mvdiff.recipes.benchmarks.page import write_outcome
from mvdiff.recipes.benchmarks.samples import Advance, SectionSamples
from mvdiff.recipes.benchmarks.scores import SectionScores
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings
from mvdiff.recipes.benchmarks.table import MethodRow, PaperTable, TableSection
from mvdiff.recipes.runner import Clock, machine

Bar = Callable[[str], AbstractContextManager[Advance]]
"""Shows a bar with a description; gives the function to call with (done, total)."""


@contextmanager
def no_bar(description: str) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda done, total: None


def run_table(
    table: PaperTable, settings: BenchmarkSettings, command: str | None = None, bar: Bar = no_bar
) -> TableOutcome:
    """Make the samples of every row, score and compare them, and write `<out>/<table>.html`, `.md` and `.json`.

    Complete samples and results of the same samples are kept.

    Args:
        table: The table.
        settings: Settings; `device` is one of torch.
        command: Command to record.
        bar: Shows the progress of samples.

    Raises:
        ArgumentTypeError: A method of the settings is not in the table.
        FileNotFoundError: The data set is not there.
        ValueError: The data set cannot be read.
        OSError: A file cannot be written.
    """
    check_methods(table, settings)
    clock, cache, sections = Clock(), FeatureCache(settings.out / "features"), []
    for section in with_imported(table, settings):
        sections.append(_run_section(section, settings, clock, cache, command, bar))
    with clock.step("comparing"):
        results = {one.section.task: one.results for one in sections}
        for section in sections:
            section.compare(cache)
        verdicts = [verdict_of(one, results[one.task], cache) for one in table.expectations]
    facts = _facts(settings, command, clock)
    outcome = TableOutcome(table, sections, verdicts, facts, clock.seconds)
    write_outcome(outcome, settings.out)
    return outcome


def check_methods(table: PaperTable, settings: BenchmarkSettings) -> None:
    """Raise ArgumentTypeError for a name in `only` that the table does not have."""
    known = {*table.methods, *settings.imported_folders}
    if unknown := [name for name in settings.only or () if name not in known]:
        raise ArgumentTypeError(f"--only must be some of {', '.join(table.methods)}; got {unknown[0]}")


def check_used(table: PaperTable, settings: BenchmarkSettings) -> None:
    """Raise ArgumentTypeError for a model or a weight file that no row, or no metric, of this run uses."""
    sections = with_imported(table, settings)
    rows = [row for section in sections for row in section.rows]
    made = [row for row in rows if settings.makes(row.method)]
    used = {part.option for row in made for part in row.parts.get(settings.size, {}).values()}
    for option in dict.fromkeys(part.option for row in rows for part in row.parts.get(settings.size, {}).values()):
        if getattr(settings, option) is not None and option not in used:
            raise ArgumentTypeError(f"--{option} is not used by the rows that are made ({_names(made)}); leave it out")
    protocols = [section.protocol(settings.size) for section in sections]
    taken = {name for protocol in protocols for name in taken_by(parse_specs(protocol.metrics))}
    for option in ("inception_weights", "clip_weights"):
        if getattr(settings, option) is not None and option not in taken:
            ids = " and ".join(protocol.id for protocol in protocols)
            raise ArgumentTypeError(f"--{option} is not used by the metrics of {ids}; leave it out")


def _names(rows: Iterable[MethodRow]) -> str:
    return ", ".join(dict.fromkeys(row.method for row in rows)) or "none"


def with_imported(table: PaperTable, settings: BenchmarkSettings) -> list[TableSection]:
    """Return the sections, with rows of their own for imported methods that the table does not have."""
    new = [MethodRow(method=name, label=name) for name in settings.imported_folders if name not in table.methods]
    if new and len(table.sections) > 1:
        raise ArgumentTypeError(
            f"--imported must be methods of {table.name}, which has two tasks; got {new[0].method}. Use table1 or "
            "table2"
        )
    return [section.with_rows((*section.rows, *new)) for section in table.sections]


def _run_section(
    section: TableSection, settings: BenchmarkSettings, clock: Clock, cache: FeatureCache, command: str | None, bar: Bar
) -> SectionOutcome:
    samples = SectionSamples(section, settings)
    if samples.makes_world:
        with clock.step(f"toy world of {samples.protocol.id}"):
            samples.make_world()
    scores = SectionScores(samples, samples.write_inputs(), cache)
    outcome = SectionOutcome(section, samples.protocol)
    made = []
    for row in section.rows:
        found = _made(row, samples, clock, bar)
        made += [] if found.need else [row.method]
        outcome.rows.append(found)
    _score(outcome, made, scores, clock, command, bar)
    return outcome


def _made(row: MethodRow, samples: SectionSamples, clock: Clock, bar: Bar) -> RowOutcome:
    """Make the samples of a row, or say what it needs."""
    settings, folder = samples.settings, samples.of(row.method)
    outcome, is_chosen = RowOutcome(row, folder), settings.only is None or row.method in settings.only
    outcome.is_failure = is_chosen
    if row.method in settings.imported_folders:
        try:
            FolderSource(folder)
        except (FileNotFoundError, ValueError) as error:
            outcome.need = f"--imported {row.method}: {error}"
    elif not is_chosen:
        outcome.need = "not asked for (--only)"
    elif row.imports:
        outcome.need = row.how_to_import(samples.folder)
        outcome.is_failure = settings.only is not None
    elif lacking := missing_models(row, settings):
        outcome.need = "; ".join(lacking)
    else:
        title = f"{samples.protocol.id}: samples of {row.method}"
        try:
            with clock.step(title), bar(title) as advance:
                samples.make(row, samples.open(row), advance)
        except (FileNotFoundError, ValueError) as error:
            outcome.need = str(error)
    outcome.need = shared_text(outcome.need, [settings.out])
    outcome.is_failure = outcome.is_failure and bool(outcome.need)
    return outcome


def _score(
    outcome: SectionOutcome, made: list[str], scores: SectionScores, clock: Clock, command: str | None, bar: Bar
) -> None:
    """Score the methods whose samples are there; add to others the results of an earlier run."""
    protocol, rows = scores.samples.protocol.id, {row.row.method: row for row in outcome.rows}
    left_out = [name for name, row in rows.items() if name not in made and not row.is_failure]
    with clock.step(f"{protocol}: looking for results"):
        again = scores.samples.settings.overwrite
        for method in [*left_out, *(() if again else made)]:
            rows[method].results = scores.finished(method)
            if rows[method].results is not None:
                rows[method].need = ""
    todo = [method for method in made if rows[method].results is None]
    if not todo:
        return
    title, total = f"{protocol}: scoring {', '.join(todo)}", len(scores.samples.reference) * (len(todo) + 1)
    with clock.step(title), bar(title) as advance:
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            advance(done, total)

        for method, results in scores.score(todo, count, command):
            rows[method].results = results


def _facts(settings: BenchmarkSettings, command: str | None, clock: Clock) -> Mapping[str, str]:
    """Return facts about the run, without absolute paths."""
    chosen = {one.name: getattr(settings, one.name) for one in fields(settings) if one.name != "out"}
    told = {
        name: shared_name(value) if isinstance(value, str) or hasattr(value, "__fspath__") else value
        for name, value in chosen.items()
    }
    told["imported"] = list(settings.imported_folders)
    return {
        "command": command or "-",
        "settings": ", ".join(f"{name}={value}" for name, value in told.items() if value not in (None, (), [])),
        "commit": code_name() or "not known",
        "versions": ", ".join(f"{name} {number}" for name, number in library_versions().items()),
        "machine": machine(),
        "time": str(clock),
    }
