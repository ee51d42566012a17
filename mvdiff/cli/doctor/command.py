"""Run the checks of `mvdiff doctor` in order, and say at the end whether the run is ready."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from rich.console import Console

from mvdiff.cli.command import plural
from mvdiff.cli.doctor.data import check_data
from mvdiff.cli.doctor.environment import check_environment
from mvdiff.cli.doctor.findings import Finding, run_checks
from mvdiff.cli.doctor.offline import offline, quiet
from mvdiff.cli.doctor.options import without_options
from mvdiff.cli.doctor.plan import check_model, check_plan
from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.cli.doctor.step import check_step
from mvdiff.cli.doctor.weights import check_weights
from mvdiff.cli.out_files import check_out
from mvdiff.files.sharing import shared_text
from mvdiff.files.writing import check_apart
from mvdiff.samples import write_json

CHECKS = {
    "Environment": check_environment,
    "Weights": check_weights,
    "Data": check_data,
    "Model": check_model,
    "Run": check_plan,
    "One step": check_step,
}
"""Checks by the heading of what they find, in order."""


def check_run(arguments: list[str]) -> int:
    """Check a run; see `run_doctor`."""
    with tempfile.TemporaryDirectory(prefix="mvdiff-doctor-") as scratch, offline(), quiet():
        run = RunToCheck(arguments, Path(scratch))
        if run.settings.json is not None:
            check_out(Path(run.settings.json), option="--json")
            check_apart("--json", run.settings.json, {"--config": [str(path) for path in run.settings.config]})
        console = Console()
        found = run_checks(((title, lambda check=check: check(run)) for title, check in CHECKS.items()), console)
    findings = [finding for section in found.values() for finding in section]
    problems, warned = (sum(f.status == status for f in findings) for status in ("problem", "warning"))
    fit = shlex.join(["mvdiff", "fit", *without_options(arguments)])
    if problems:
        again = shlex.join(["mvdiff", "doctor", *arguments])
        last = f"not ready, {plural(problems, 'problem')} and {plural(warned, 'warning')}; when solved: {again}"
    else:
        last = f"ready{', with ' + plural(warned, 'warning') if warned else ''}: {fit}"
    console.print(last, style="bold", soft_wrap=True, highlight=False, markup=False)
    if run.settings.json is not None:
        roots = [argument.rpartition("=")[2] for argument in arguments]
        sections = {title: [_told(finding, roots) for finding in section] for title, section in found.items()}
        run_told = {"ready": not problems, "run": shared_text(fit, roots), "findings": sections}
        write_json(Path(run.settings.json), run_told)
    return int(problems > 0)


def _told(finding: Finding, roots: list[str]) -> dict[str, str]:
    """Return a finding for the JSON file, which people send around: without absolute paths."""
    return {name: shared_text(text, roots) for name, text in vars(finding).items()}
