"""docs/tables.md shows what `mvdiff benchmark` wrote into notes/tables: scores, differences, verdicts, provenance."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.shared_files import telling

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
RESULTS = PAGE.partition("\n## Results\n")[2].partition("\n## Ablations\n")[0]
NUMBER = r"([+−-]?\d+(?:\.\d+)?)"
WITH_INTERVAL = re.compile(rf"{NUMBER}( %)?(?: dB)? \[{NUMBER}(?: %)?, {NUMBER}(?: %)?\]")
spec = importlib.util.spec_from_file_location("paper_tables", ROOT / "docs" / "paper_tables.py")
paper_tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(paper_tables)
TABLES = {table.name: table for table in (paper_tables.TABLE1, paper_tables.TABLE2, paper_tables.TABLE3)}


FILES = {*TABLES, *paper_tables.BASES.values()}


def time_of(written: dict) -> str:
    """Say how long a run took, as the page does."""
    wall, cpu = re.search(r"(\d+) s in all \(CPU (\d+) s\)", written["time"]).groups()
    return f"{int(wall):,} s and {int(cpu):,} CPU seconds"


def chapter(name: str) -> str:
    number = int(name[-1])
    return re.split(r"\n###? ", RESULTS.partition(f"\n### Table {number}\n")[2])[0]


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_tables_of_the_files(name):
    written = paper_tables.written(name)
    for section in TABLES[name].sections:
        rows = written["sections"][section.task]["rows"]
        assert [row["method"] for row in rows] == [row.method for row in section.rows]
        assert written["sections"][section.task]["protocol"]["hash"] == section.protocol("toy").hash()
        assert not [line for row in rows for line in row.get("shortcomings", ())]
    for table in paper_tables.tables(TABLES[name]).values():
        assert f"\n{table}\n" in chapter(name)
    assert chapter(name).count("| row | samples |") == len(TABLES[name].sections)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_says_what_made_the_files(name):
    written, said = paper_tables.written(name), f"{RESULTS if name == 'table3' else chapter(name)}"
    assert written["commit"][:7] in said
    assert time_of(written) in " ".join(chapter(name).split())
    for section in written["sections"].values():
        assert f"`{section['protocol']['id']}`, hash `{section['protocol']['hash'][:12]}`" in said
        assert {row["num_samples"] for row in section["rows"] if "num_samples" in row} == {32}
    answers = [one.strip("* ") for one in re.findall(r"\| *([*a-z ]+) \|$", chapter(name), flags=re.MULTILINE)]
    answers = [one for one in answers if one in ("held", "did not hold", "not decided")]
    assert answers == [one["answer"] for one in written["expectations"]]


def test_both_bases_stand_side_by_side():
    written, said = paper_tables.written(paper_tables.BASES["transformer"]), PAGE.partition("\n## Two bases\n")[2]
    assert f"\n{paper_tables.two_bases()}\n" in said
    assert written["command"] in said.replace("\\\n    ", "")
    assert written["commit"][:7] in said
    assert time_of(written) in " ".join(said.split())


def test_the_page_has_the_ablations_of_the_file():
    written, said = paper_tables.written("ablations"), PAGE.partition("\n## Ablations\n")[2]
    for table in paper_tables.ablations():
        assert f"\n{table}\n" in said
    (maker,) = written["made_by"]
    assert f"trainings at commit {maker['commit'][:7]}," in said
    protocol_id, protocol_hash = written["protocol"].split()
    assert f"`{protocol_id}`, hash `{protocol_hash[:12]}`" in said
    trained = [row for row in written["rows"].values() if row["seeds"]]
    assert {tuple(row["seeds"]) for row in trained} == {(0, 1, 2)}
    assert {row["num_parameters"] for row in trained} == {1_452_544}
    assert not written["missing"]
    assert not written["deviations"]
    values = {name: row["numbers"]["overlap_psnr_mean_of_pairs"]["value"] for name, row in written["rows"].items()}
    gains = {name: f"{value - values['base-alone']:.1f} dB" for name, value in values.items()}
    assert f"it is {gains['all-views']} above the base, CAA {gains['caa-k3']}." in " ".join(said.split())


def measured() -> dict[str, list[tuple[float, float, float]]]:
    """Every number of the files with its interval, and every difference with either sign, as it is and in per cent."""
    found = {"": [], "%": []}
    for written in map(paper_tables.written, FILES):
        sections = written["sections"].values()
        numbers = [entry for part in sections for row in part["rows"] for entry in row.get("metrics", {}).values()]
        for entry in (one for one in numbers if "interval" in one):
            triple = (entry["value"], *entry["interval"])
            found[""] += [triple, tuple(1000 * value for value in triple)]
        differences = [one for part in sections for own in part["differences"].values() for one in own.values()]
        differences += [one for verdict in written["expectations"] for one in verdict["differences"]]
        for entry in (one for one in differences if "difference" in one):
            low, high = entry["interval"]
            both = [(entry["difference"], low, high), (-entry["difference"], -high, -low)]
            found[""] += both
            found["%"] += [tuple(100 * value / entry["base"] for value in triple) for triple in both if entry["base"]]
    return found


def test_every_number_with_an_interval_is_in_the_files():
    known, wrong = measured(), []
    said = WITH_INTERVAL.findall(RESULTS)
    assert len(said) > 100
    for value, unit, *ends in said:
        texts = [text.replace("−", "-") for text in (value, *ends)]
        places = [len(text.partition(".")[2]) for text in texts]
        if not any(
            all(
                abs(float(text) - number) <= 0.5 * 10**-digits + 1e-9
                for text, number, digits in zip(texts, triple, places, strict=True)
            )
            for triple in known["%" if unit else ""]
        ):
            wrong.append(texts)
    assert not wrong


def test_the_files_are_small_and_tell_no_path():
    files = sorted((ROOT / "notes" / "tables").glob("*.json"))
    assert {path.stem for path in files} == {*FILES, "ablations"}
    assert sum(path.stat().st_size for path in files) < 250_000
    assert not telling(ROOT / "notes" / "tables", ROOT, Path.home(), "/home/", "/tmp/", "/root/")
