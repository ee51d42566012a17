"""`mvdiff benchmark`: the tables of the paper and the ablations, made again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mvdiff.cli.ablations import ABLATIONS
from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings, Table1Settings, Table2Settings, Table3Settings

SUMMARY = "tables of the paper and ablations, made again: samples, scores, paired differences"


def run_table1(settings: Table1Settings, words: Sequence[str] = ()) -> int:
    """Make Table 1; return the exit status."""
    from mvdiff.recipes.benchmarks.table1 import TABLE1

    return _run(TABLE1, settings, words)


def run_table2(settings: Table2Settings, words: Sequence[str] = ()) -> int:
    """Make Table 2; return the exit status."""
    from mvdiff.recipes.benchmarks.table2 import TABLE2

    return _run(TABLE2, settings, words)


def run_table3(settings: Table3Settings, words: Sequence[str] = ()) -> int:
    """Make Table 3; return the exit status."""
    from mvdiff.recipes.benchmarks.table3 import TABLE3

    return _run(TABLE3, settings, words)


def _run(table, settings: BenchmarkSettings, words: Sequence[str]) -> int:
    # Threads that wait for each other sleep, see `mvdiff.cli.quickstart`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from dataclasses import replace

    from mvdiff.cli.opening import usable_device
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import progress_of, quiet_libraries
    from mvdiff.eval.provenance import command_line
    from mvdiff.files.writing import check_apart
    from mvdiff.recipes.benchmarks.runner import check_methods, check_used, run_table

    check_methods(table, settings)
    check_used(table, settings)
    check_folder(settings.out)
    names = ("data", "depth_data", "model", "depth_model", "inpainting_base", "pano_base", "controlnet")
    inputs = {f"--{name}": getattr(settings, name, None) for name in names}
    check_apart("--out", settings.out, inputs | {"--imported": list(settings.imported_folders.values())}, around=False)
    if settings.size == "paper":
        from mvdiff.cli.paper_size import what_is_missing

        if lines := what_is_missing(table, settings):
            first = f"--size paper lacks {plural(len(lines), 'thing')}; nothing was done:"
            print(f"mvdiff benchmark {table.name}: error: {first}", file=sys.stderr)
            print("\n".join(f"- {line}" for line in lines), file=sys.stderr)
            return 1
    quiet_libraries()
    settings = replace(settings, device=str(usable_device(settings.device)))
    command = command_line(["mvdiff", "benchmark", table.name, *words])
    outcome = run_table(table, settings, command, progress_of)
    page, made = settings.out / f"{table.name}.html", sum(row.results is not None for row in outcome.rows)
    missing = f", {len(outcome.rows) - made} missing" if made < len(outcome.rows) else ""
    done(f"{page}: {plural(made, 'row')}{missing}", typed("xdg-open", page) + " (or open it in any browser)")
    return 0 if outcome.is_finished else UNFINISHED


_WRITES = (
    "Makes the samples of every row under the protocol, scores them as mvdiff evaluate --protocol --strict does and "
    "compares them as mvdiff compare does. Writes data, samples and results into --out, and {name}.html, .md and .json "
    "with the paper's published numbers beside. A rerun continues where a run was stopped. A row that cannot be made "
    "stays in the table with what it needs, and the exit status is 3. With --size paper, everything that is missing is "
    "listed before any work."
)

COMMANDS = (
    Command(
        name="benchmark table1",
        summary="Table 1: panoramas from text, by all methods",
        description="Make Table 1 of the paper again: panoramas from text. " + _WRITES.format(name="table1"),
        example="mvdiff benchmark table1 --size toy",
        settings=(Table1Settings,),
        run=run_table1,
        takes_words=True,
    ),
    Command(
        name="benchmark table2",
        summary="Table 2: frames from depth and poses, by all methods",
        description="Make Table 2 of the paper again: frames from depth and poses. " + _WRITES.format(name="table2"),
        example="mvdiff benchmark table2 --size toy",
        settings=(Table2Settings,),
        run=run_table2,
        takes_words=True,
    ),
    Command(
        name="benchmark table3",
        summary="Table 3: overlap PSNR of both tasks, from the samples of Tables 1 and 2",
        description="Make Table 3 of the paper again: how well neighbouring views agree, from the samples and results "
        "of Tables 1 and 2 in --out, and from its own where they are not there. " + _WRITES.format(name="table3"),
        example="mvdiff benchmark table3 --size toy",
        settings=(Table3Settings,),
        run=run_table3,
        takes_words=True,
    ),
    ABLATIONS,
)
