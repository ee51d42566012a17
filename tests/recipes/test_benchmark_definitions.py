"""The definitions of the paper's tables: published numbers, options, methods, expectations, samples and worlds."""

from dataclasses import fields
from pathlib import Path

import pytest

from mvdiff.recipes.benchmarks.settings import Table1Settings, Table2Settings, Table3Settings
from mvdiff.recipes.benchmarks.table import TRUTH
from mvdiff.recipes.benchmarks.table1 import TABLE1
from mvdiff.recipes.benchmarks.table2 import TABLE2
from mvdiff.recipes.benchmarks.table3 import TABLE3

ROOT = Path(__file__).resolve().parents[2]
TABLES = {"table1": (TABLE1, Table1Settings), "table2": (TABLE2, Table2Settings), "table3": (TABLE3, Table3Settings)}
PUBLISHED = {  # PAPER.md, section 2
    "table1": {
        "inpainting": (42.13, 7.08, 29.05),
        "text2light": (48.71, 5.41, 25.98),
        "sd-pano": (23.02, 6.58, 28.63),
        "independent": (25.59, 7.29, 30.25),
        "mvdiffusion": (21.44, 7.32, 30.04),
    },
    "table2": {
        "repaint": (70.05, 7.15, 26.98),
        "controlnet-inpainting": (43.67, 7.23, 28.14),
        "mvdiffusion": (23.10, 7.27, 29.03),
    },
    "table3 panorama": {"truth": (37.7, 1.00), "independent": (10.6, 0.28), "mvdiffusion": (25.4, 0.67)},
    "table3 depth": {"truth": (21.41, 1.00), "independent": (11.20, 0.44), "mvdiffusion": (17.41, 0.76)},
}


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers_are_those_of_the_paper(name):
    for section in TABLES[name][0].sections:
        found = {row.method: tuple(map(float, row.published)) for row in section.rows if row.published}
        assert found == PUBLISHED.get(name) or found == PUBLISHED[f"{name} {section.task}"]
        assert {len(numbers) for numbers in found.values()} == {len(section.published)}


@pytest.mark.parametrize("name", TABLES)
def test_options_methods_and_expectations_exist(name):
    table, kind = TABLES[name]
    options = {one.name for one in fields(kind)}
    for section in table.sections:
        assert section.data_option in options
        methods = [row.method for row in section.rows]
        assert {section.base, TRUTH} <= set(methods)
        for row in section.rows:
            assert {part.option for parts in row.parts.values() for part in parts.values()} <= options
            assert row.imports or row.is_reference or set(row.parts) == {"toy", "paper"}
        for size in ("toy", "paper"):
            assert section.protocol(size).task == section.task
        for one in table.expectations:
            if one.task == section.task:
                assert one.number in section.protocol("toy").numbers
                assert {method for pair in one.higher for method in pair} <= set(methods)
    assert {one.task for one in table.expectations} <= {section.task for section in table.sections}


def test_the_tables_share_the_samples_of_a_task():
    """Table 3 scores the same rows under the same protocol."""
    for section, other in zip(TABLE3.sections, (*TABLE1.sections, *TABLE2.sections), strict=True):
        assert (section.protocols, section.world, section.layout) == (other.protocols, other.world, other.layout)
        for row in section.rows:
            same = other.row(row.method)
            for size, parts in row.parts.items():
                assert {place: part.name for place, part in parts.items()} == {
                    place: part.name for place, part in same.parts[size].items()
                }


@pytest.mark.parametrize("name", ["toy-pano-v1", "toy-depth-v1"])
def test_the_world_is_that_of_the_protocols_own_command(name):
    section = next(one for one in TABLE3.sections if one.protocols["toy"] == name)
    text = (ROOT / "mvdiff" / "eval" / "protocols" / f"{name}.yaml").read_text()
    words = next(line for line in text.splitlines() if line.startswith("# mvdiff data toyworld DIR")).split()[5:]
    command = {key.removeprefix("--"): int(value) for key, value in zip(words[::2], words[1::2], strict=True)}
    assert command == section.world
