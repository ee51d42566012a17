"""Inputs from users' trouble (MVDIFF_TEST_DATA/cases), copied where a test may write; a table of what was shown."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROWS: dict[str, list[str]] = {}


@pytest.fixture
def case(test_data: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Return a function that copies the case of a number and returns the copy's folder."""

    def copied(number: int) -> Path:
        folders = sorted((test_data / "cases").glob(f"{number:02d}-*"))
        if not folders:
            pytest.skip(f"needs case {number:02d} of the shared test data")
        target = tmp_path / folders[0].name
        shutil.copytree(folders[0], target, symlinks=True, copy_function=shutil.copyfile)
        for path in (target, *target.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        return target

    return copied


@pytest.fixture
def shows() -> Callable[[int, str, str], None]:
    """Return a function that adds a row to the table at the end of the run: case, what was tried, what was shown."""

    def add(number: int, tried: str, shown: str) -> None:
        ROWS.setdefault(f"{number:02d}", []).append(f"| {number:02d} | {tried} | {' '.join(shown.split())} |")

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if ROWS:
        terminalreporter.section("cases from users' trouble")
        terminalreporter.write_line("| case | tried | shown |\n|---|---|---|")
        terminalreporter.write_line("\n".join(row for number in sorted(ROWS) for row in ROWS[number]))
