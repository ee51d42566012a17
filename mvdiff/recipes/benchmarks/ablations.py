"""Run the ablations: which attention across views pays, under equal parameters, data, steps and seeds.

Every variant of `ablation_settings.VARIANTS` is trained on the packaged toy base with each seed, and generates the
protocol's test rooms. Trainings, samples and scores that are finished are kept, and a training that was stopped goes on
from its last checkpoint, with equal results. Several processes may work in one folder: each takes the runs that no
other one has, and writes the tables of all that is finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvdiff.eval.provenance import library_versions
from mvdiff.files.locks import locked
from mvdiff.files.sharing import shared_name
from mvdiff.files.writing import write_whole
from mvdiff.recipes.benchmarks.ablation_makers import note_maker
from mvdiff.recipes.benchmarks.ablation_rows import AblationOutcome, read_outcome
from mvdiff.recipes.benchmarks.ablation_runs import AblationRun, AblationRuns
from mvdiff.recipes.benchmarks.ablation_settings import AblationScale, AblationSettings
from mvdiff.recipes.benchmarks.ablation_table import ablation_sentences, ablation_tables, ablation_values
from mvdiff.recipes.benchmarks.galleries import sample_galleries
from mvdiff.recipes.benchmarks.makers import this_process, told_makers
from mvdiff.recipes.fit_command import RunTrainer
from mvdiff.recipes.page import print_tables
from mvdiff.report import Gallery, Page, report_sections, write_page
from mvdiff.report.markdown import markdown
from mvdiff.samples import write_json

SCHEMA_VERSION = 1
TITLE = "Does correspondence-aware attention pay?"


@dataclass
class _Clock:
    """Time that is left, from the trainings that this process has made so far."""

    seconds: float = 0.0
    made: int = 0

    def left(self, todo: int) -> str:
        """Return how long the runs that are left take here, once one was made."""
        if not self.made:
            return ""
        minutes = round(self.seconds / self.made * todo / 60)
        return f", about {minutes // 60} h {minutes % 60:02d} min left for this process alone"


def run_ablations(
    settings: AblationSettings,
    run_trainer: RunTrainer,
    scale: AblationScale | None = None,
    command: str | None = None,
) -> AblationOutcome:
    """Make what is missing, and write `<out>/ablations.html`, `.md` and `.json`.

    Args:
        settings: Variants, seeds and folder.
        run_trainer: Runs `mvdiff fit` with the given arguments.
        scale: Size of the experiment; None: that of the toy size.
        command: Command to record.

    Raises:
        ValueError: The folder holds an experiment of another size, or a file in it is damaged.
        OSError: A training failed, or a file cannot be written.
    """
    scale = AblationScale() if scale is None else scale
    runs = AblationRuns(settings.out, scale, run_trainer)
    todo = [runs.run_of(variant, seed) for seed in settings.chosen_seeds for variant in settings.chosen]
    print(f"{len(todo)} trainings of {scale.max_steps} steps in {settings.out}; those that are finished are kept")
    runs.prepare(settings.num_workers)
    clock = _Clock()
    for run in _unclaimed([*runs.references, *todo]):
        left = sum(not one.is_finished for one in todo)
        if run.variant is not None:
            print(f"{run.folder.name}: run {len(todo) - left + 1} of {len(todo)}{clock.left(left)}", flush=True)
        start = time.monotonic()
        note_maker(run)
        runs.make(run)
        if run.variant is not None:
            clock.seconds, clock.made = clock.seconds + time.monotonic() - start, clock.made + 1
    with locked(settings.out / ".tables.lock", wait=True):
        outcome = read_outcome(runs)
        _write(outcome, runs, settings.out, command)
    return outcome


def _unclaimed(todo: Sequence[AblationRun]) -> Iterator[AblationRun]:
    """Yield unfinished runs, locked; first those that no other process has, then those that one left unfinished."""
    for wait in (False, True):
        for run in todo:
            if run.is_finished:
                continue
            if wait:
                print(f"{run.folder.name}: waiting for the process that has it", flush=True)
            with run.claimed(wait) as is_ours:
                if is_ours and not run.is_finished:
                    yield run


def _write(outcome: AblationOutcome, runs: AblationRuns, out: Path, command: str | None) -> None:
    tables, said = ablation_tables(outcome, runs.scale, runs.protocol), ablation_sentences(outcome)
    written_by = this_process()
    facts = {
        "command": command or "-",
        "commit": written_by.commit or "not known",
        "runs made at": told_makers(outcome.makers) or "-",
        "base": shared_name(runs.scale.base),
        "protocol": f"{runs.protocol.id} {runs.protocol.hash()}",
        "versions": ", ".join(f"{name} {number}" for name, number in library_versions().items()),
        "machine": written_by.machine,
    }
    sections = report_sections(tables=tables, galleries=_galleries(outcome, runs), facts=facts)
    page = Page(TITLE, said, sections)
    write_page(out / "ablations.html", page)
    write_whole(out / "ablations.md", markdown(page))
    write_json(out / "ablations.json", {"schema_version": SCHEMA_VERSION, **facts, **ablation_values(outcome)})
    print_tables(tables, said)


def _galleries(outcome: AblationOutcome, runs: AblationRuns) -> list[Gallery]:
    """Show the first test rooms, a row for each variant's training with its lowest seed and for each reference."""
    first = {row.title: (min(row.runs), row.runs[min(row.runs)]) for row in outcome.rows.values()}
    folders = {
        title if run.variant is None else f"{title}, seed {seed}": run.samples for title, (seed, run) in first.items()
    }
    return sample_galleries(folders, runs.reference.dataset.sample_ids())
