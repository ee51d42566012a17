"""docs/extend.md shows the modules of `outside` as they are, and names files that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = Path(__file__).parent / "outside"
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
KINDS = (
    "A metric",
    "An attention block",
    "A base",
    "A panorama layout",
    "A layout of posed RGB-D",
    "A task",
    "A method",
)
EXAMPLES = dict(re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))


def test_every_example_is_a_module_that_the_tests_run():
    assert EXAMPLES.keys() == {path.name for path in OUTSIDE.glob("*.py")}
    assert PAGE.count("```python") == len(EXAMPLES)
    for name, code in EXAMPLES.items():
        assert code == (OUTSIDE / name).read_text(encoding="utf-8"), f"copy {name} into docs/extend.md"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_one_example_and_a_short_checklist(kind):
    (section,) = re.findall(rf"^## {kind}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert section.count("```python") == 1
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 6 <= len(numbers) <= 12
    assert re.search(r"`tests/extend/test_\w+\.py`", section)


def test_files_and_classes_that_it_names_exist():
    for path in re.findall(r"`((?:tests|mvdiff)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file(), path
    named = re.findall(r"`((?:mvdiff|my_\w+)\.[\w.]*\.?[A-Z]\w+)`", PAGE)
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    named += [path for block in blocks for path in class_paths(yaml.safe_load(block))]
    assert len(named) > 10
    for class_path in named:
        module, _, name = class_path.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), class_path


def class_paths(values) -> list[str]:
    """Return every class path of a YAML block."""
    if isinstance(values, dict):
        return [
            path for key, value in values.items() for path in ([value] if key == "class_path" else class_paths(value))
        ]
    return []
