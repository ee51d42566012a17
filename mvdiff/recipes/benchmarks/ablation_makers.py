"""What made each run of the ablations: commits and machines, noted beside it by every process that works at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mvdiff.eval.comparability import read_results
from mvdiff.eval.provenance import commit
from mvdiff.files.text import read_json_object
from mvdiff.recipes.benchmarks.ablation_runs import SCORES, AblationRun
from mvdiff.recipes.runner import machine
from mvdiff.samples import write_json

FILE = "made_by.json"


class Maker(NamedTuple):
    """What a run, or a part of it, was made by.

    Attributes:
        commit: Commit of mvdiff; None: not recorded.
        machine: Processor, cores and Python; None: not recorded.
    """

    commit: str | None = None
    machine: str | None = None

    def __str__(self) -> str:
        at = "a commit that was not recorded" if self.commit is None else self.commit
        return f"{at} on {'a machine that was not recorded' if self.machine is None else self.machine}"


def this_process() -> Maker:
    """Return the maker that this process is."""
    return Maker(commit() or "an installed package", machine())


def note_maker(run: AblationRun) -> None:
    """Add this process to the makers of a run that it goes on with.

    Raises:
        ValueError: The file of the run is damaged.
        OSError: It cannot be written.
    """
    path, own = run.folder / FILE, this_process()
    before = _read(path)
    if before is None:  # parts that an earlier version made are of an unknown maker
        before = [Maker()] if run.folder.is_dir() and any(run.folder.iterdir()) else []
    if own not in before:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"made_by": [maker._asdict() for maker in (*before, own)]})


def makers_of(run: AblationRun) -> list[Maker]:
    """Return what made a finished run; of one without a note, what its scores tell.

    Raises:
        ValueError: A file of the run is damaged.
    """
    noted = _read(run.folder / FILE)
    if noted is not None:
        return noted
    scored = read_results(run.folder / SCORES).get("run")
    return [Maker(scored.get("commit") if isinstance(scored, Mapping) else None)]


def told_makers(makers: Mapping[Maker, Iterable[str]]) -> str:
    """Return makers with the names of their runs as one line."""
    return "; ".join(f"{maker}: {', '.join(names)}" for maker, names in makers.items())


def warnings_about(makers: Mapping[Maker, Iterable[str]]) -> list[str]:
    """Return a sentence if runs were made at more than one commit, and one if on more than one machine."""
    commits, machines = ({maker[place] for maker in makers} for place in (0, 1))
    lines = []
    if len(commits) > 1:
        lines.append(
            f"Warning: these runs were made at {len(commits)} commits, so a difference between them may come from the "
            f"code. {told_makers(makers)}."
        )
    if len(machines) > 1:
        lines.append(
            f"Warning: these runs were made on {len(machines)} machines, so their times and memory do not compare. "
            f"{told_makers(makers)}."
        )
    return lines


def _read(path: Path) -> list[Maker] | None:
    if not path.is_file():
        return None
    content = read_json_object(path)
    try:
        found = [Maker(entry["commit"], entry["machine"]) for entry in content["made_by"]]
    except (KeyError, TypeError):
        found = []
    if not found or not all(isinstance(part, str | None) for maker in found for part in maker):
        raise ValueError(f"{path} must name commits and machines under made_by; it does not. Delete it.")
    return found
