"""The makers of each run of the ablations, noted beside it by every process that works at it."""

from __future__ import annotations

from pathlib import Path

from mvdiff.eval.comparability import read_results
from mvdiff.files.text import read_json_object
from mvdiff.recipes.benchmarks.ablation_runs import SCORES, AblationRun
from mvdiff.recipes.benchmarks.makers import Maker, scorer_of, this_process
from mvdiff.samples import write_json

FILE = "made_by.json"


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
    return [scorer_of(read_results(run.folder / SCORES))]


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
