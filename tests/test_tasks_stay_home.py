"""What is special about a task stands in mvdiff/tasks: elsewhere nothing imports one or asks which one it has."""

import ast
from pathlib import Path

import pytest

from mvdiff.tasks.opening import PAPER_TASKS

PACKAGE = Path(__file__).resolve().parents[1] / "mvdiff"
FACES = {f"pipelines/{task.name}.py" for task in PAPER_TASKS}
HOMES = ("tasks/", "recipes/", "cli/", "interop/")
MODULES = {task.__module__ for task in PAPER_TASKS}
CLASSES = {task.__name__ for task in PAPER_TASKS}
METHODS = {f"methods/{name}.py" for name in ("inpainting", "frame_by_frame", "repaint", "controlnet_inpainting")}
"""Baselines that are made for one task."""
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def lapses(source: str) -> list[str]:
    """Name what a file knows of single tasks: imports of their modules, and comparisons of tasks or their names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = {module} | {name for alias in node.names for name in (alias.name, f"{module}.{alias.name}")}
            if names & (MODULES | CLASSES):
                found.append(f"line {node.lineno} imports a task")
        elif isinstance(node, ast.Compare) and any(map(is_task, [node.left, *node.comparators])):
            found.append(f"line {node.lineno} compares a task")
        elif isinstance(node, ast.Match) and is_task(node.subject):
            found.append(f"line {node.lineno} matches a task")
        elif isinstance(node, ast.Name) and node.id in CLASSES:
            found.append(f"line {node.lineno} uses a task's class")
    return found


def is_task(node: ast.expr) -> bool:
    """Tell `x.task`, `x.task.name` and `task.name`; `x.task.spec()`, which identifies models, is no branch."""
    if isinstance(node, ast.Attribute) and node.attr == "name":
        node = node.value
        return (isinstance(node, ast.Name) and node.id == "task") or is_task(node)
    return isinstance(node, ast.Attribute) and node.attr == "task"


@pytest.mark.parametrize(
    "source",
    [
        "from mvdiff.tasks.depth import DepthTask",
        "import mvdiff.tasks.panorama",
        "from mvdiff.tasks import outpaint",
        "if self.task == 'depth': pass",
        "x = info.task.name in ('depth', 'panorama')",
        "match model.task.name:\n    case 'depth': pass",
        "isinstance(task, (DepthTask, int))",
    ],
)
def test_lapses_are_seen(source):
    assert lapses(source)


def test_what_is_no_lapse():
    assert not lapses("from mvdiff.tasks.task import Task\nif own.spec() != info.task.spec(): f(task.name)")


@pytest.mark.parametrize("path", [path for path in FILES if path not in FACES | METHODS and not path.startswith(HOMES)])
def test_nothing_else_knows_a_single_task(path):
    found = lapses((PACKAGE / path).read_text(encoding="utf-8"))
    assert not found, f"{path}: {'; '.join(found)}"
