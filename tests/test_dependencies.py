"""What the package imports is declared, each library once, with a lower bound."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


OPTIONAL = PROJECT["optional-dependencies"]
EXTRAS = [requirement for name, extra in OPTIONAL.items() if name != "dev" for requirement in extra]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> list[str]:
    return [normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements]


def imported() -> dict[str, Path]:
    """Top-level modules that any file of mvdiff imports anywhere, also inside functions."""
    found = {}
    for path in (ROOT / "mvdiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, "mvdiff"}}


def test_what_is_imported_is_declared():
    distributions, known = packages_distributions(), set(declared([*PROJECT["dependencies"], *EXTRAS]))
    for name, path in imported().items():
        assert known & set(map(normalized, distributions[name])), f"{path} imports {name}, which nothing declares"


def test_what_extras_bring_is_there_for_the_tests():
    assert set(EXTRAS) <= set(OPTIONAL["dev"])


@pytest.mark.parametrize("requirements", [PROJECT["dependencies"], *OPTIONAL.values()], ids=["run", *OPTIONAL])
def test_each_library_stands_once_with_a_lower_bound(requirements):
    names = declared(requirements)
    assert len(names) == len(set(names))
    assert all(">=" in requirement for requirement in requirements)


COMPROMISED = ("2.6.2", "2.6.3")
"""Releases of Lightning that stole credentials when they were imported (GHSA-w37p-236h-pfx3)."""


@pytest.mark.parametrize("requirements", [PROJECT["dependencies"], *OPTIONAL.values()], ids=["run", *OPTIONAL])
def test_releases_with_malicious_code_cannot_be_installed(requirements):
    for requirement in map(Requirement, requirements):
        if normalized(requirement.name) in ("lightning", "pytorch-lightning"):
            assert list(requirement.specifier.filter(["2.6.1", *COMPROMISED, "2.6.4"])) == ["2.6.1", "2.6.4"]
