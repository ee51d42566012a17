"""The direction of imports: a package uses only what lies below it, and files of a package form no cycle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mvdiff"
LAYERS = (  # from the ground up (the same line may hold siblings that do not use each other)
    {"files"},
    {"shapes", "keyed", "settings", "class_paths", "hub_models", "run_files", "signals", "text_context"},
    {"geometry", "flow", "text_states"},
    {"batch", "samples"},
    {"data"},
    {"eval"},
    {"denoising", "diffusion", "models"},
    {"tasks"},
    {"pipelines"},
    {"methods"},
    {"training"},
    {"mesh"},
    {"report"},
    {"demo"},
    {"recipes"},
    {"interop"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules of mvdiff that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
            assert all(alias.name != "*" for alias in node.names), f"{path}: import * in line {node.lineno}"
    return {name for name in found if name.split(".")[0] == "mvdiff"}


def top(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_from_below(path):
    here = top(module_name(path))
    if not here:
        assert not imports_of(path), "mvdiff/__init__.py imports nothing"
        return
    assert here in LEVEL, f"{here} has no place among the layers"
    for module in imports_of(path) - {"mvdiff"}:
        there = top(module)
        assert there == here or LEVEL[there] < LEVEL[here], (
            f"{module_name(path)} imports {module}, which is not below it"
        )


def test_nothing_but_its_command_and_a_class_path_refers_to_the_2023_release():
    """`mvdiff convert` imports it; the translation of old adapter configs names its attention."""
    places = {module_name(path) for path in FILES if "mvdiff.interop" in path.read_text(encoding="utf-8")}
    others = {place for place in places if not place.startswith("mvdiff.interop")}
    assert others == {"mvdiff.cli.convert", "mvdiff.models.adapter_config"}


def test_no_import_cycles():
    TopologicalSorter({module_name(path): imports_of(path) - {module_name(path)} for path in FILES}).prepare()


def test_no_module_is_called_utils():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common")]
