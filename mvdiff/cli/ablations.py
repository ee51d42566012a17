"""`mvdiff benchmark ablations`: attentions across views, compared under equal conditions."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence

from mvdiff.cli.command import Command, done, typed
from mvdiff.recipes.benchmarks.ablation_settings import AblationSettings

_COST = "about ten core-hours"


def run(settings: AblationSettings, words: Sequence[str] = ()) -> int:
    """Run the ablations; return the exit status."""
    # Threads that wait for each other sleep, see `mvdiff.cli.quickstart`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import quiet_libraries
    from mvdiff.eval.provenance import command_line
    from mvdiff.recipes.benchmarks.ablations import run_ablations

    check_folder(settings.out)
    quiet_libraries()
    print(f"The whole comparison takes {_COST}; the same command in a second shell shares the work.", flush=True)
    run_ablations(settings, fit_apart, command=command_line(["mvdiff", "benchmark", "ablations", *words]))
    page = settings.out / "ablations.html"
    done(f"{page}: tables of all finished trainings", typed("xdg-open", page) + " (or open it in any browser)")
    return 0


def fit_apart(arguments: Sequence[str]) -> None:
    """Run `mvdiff fit` in a process of its own, so that its memory is that of one training; it ends with this one.

    Raises:
        ChildProcessError: The training did not end well; it has said why.
    """
    process = multiprocessing.get_context("spawn").Process(target=_fit, args=(list(arguments),))
    process.start()
    try:
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode:
        raise ChildProcessError(f"the training must end well; it ended with status {process.exitcode}, see above.")


def _fit(arguments: list[str]) -> None:
    from mvdiff.cli.main import main

    threading.Thread(target=_end_with_parent, daemon=True).start()
    raise SystemExit(main(arguments))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    multiprocessing.parent_process().join()
    os._exit(1)


ABLATIONS = Command(
    name="benchmark ablations",
    summary="attentions across views under equal parameters, data, steps and seeds",
    description="Train six attentions across views on the packaged toy base, each with three seeds: "
    "correspondence-aware attention with K = 3, with K = 1 and without displacement encoding, the block of the 2023 "
    "release, and attention over all views, without and with the rays of the cells. All have equally many parameters "
    f"and the same data, steps and noise. The whole comparison takes {_COST}. A rerun goes on where a run was stopped, "
    "and the same command, or one with other variants, in a second shell shares the work. Writes data, trainings, "
    "samples and scores into --out, and ablations.html, .md and .json.",
    example="mvdiff benchmark ablations --size toy",
    settings=(AblationSettings,),
    run=run,
    takes_words=True,
)
