"""Tables of small rooms: rows, kills, stale results, differences, verdicts, and what is written."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.eval.metrics import metric_columns
from mvdiff.recipes.benchmarks.outcome import verdict_of
from mvdiff.recipes.benchmarks.runner import run_table
from mvdiff.recipes.benchmarks.settings import Table1Settings, Table2Settings, Table3Settings
from mvdiff.recipes.benchmarks.table import TRUTH, Expectation
from mvdiff.recipes.benchmarks.table1 import TABLE1
from mvdiff.recipes.benchmarks.table2 import TABLE2
from mvdiff.recipes.benchmarks.table3 import TABLE3
from mvdiff.recipes.scoring import PSNR
from mvdiff.samples import find_samples, sample_folder
from mvdiff.samples.writing import SampleWriter
from tests.forked import KILLED, run
from tests.method_parts import depth_parts, panorama_parts
from tests.recipes.small_tables import (
    RIG,
    depth_settings,
    run_killed,
    settings,
    small_depth_table,
    small_table,
    stop_at,
)
from tests.shared_files import telling

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
MADE = ("inpainting", "independent", "multidiffusion", "mvdiffusion")
DIFFERENT = ("inpainting", "multidiffusion", "mvdiffusion", TRUTH)
WALKED = ("repaint", "controlnet-inpainting", "independent", "mvdiffusion", TRUTH)
ROOMS = [f"toy{room:05d}_toy{room:05d}" for room in (1, 2, 3)]


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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A table, its models, and the outcome of a whole run."""
    folder = tmp_path_factory.mktemp("tables")
    models = panorama_parts(folder, RIG)
    table = small_table(folder, models)
    return folder, table, run_table(table, settings(folder / "out"), "mvdiff benchmark table1"), models


def rows_of(folder: Path) -> dict:
    (file,) = folder.glob("table*.json")
    (section,) = json.loads(file.read_text())["sections"].values()
    return {row["method"]: row for row in section["rows"]} | {"differences": section["differences"]}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def run_until(deadly: Path, table, chosen) -> None:
    """Run a table that is killed when a sample is to be written into a folder."""

    def kill():
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleWriter, "__init__", stop_at(deadly, kill))
        with pytest.raises(Killed):
            run_table(table, chosen)


def numbers_of(folder: Path) -> dict:
    """Everything in the table's JSON that a rerun must repeat."""
    found = rows_of(folder)
    differences = found.pop("differences")
    kept = ("content_hash", "metrics", "num_samples", "needs", "shortcomings")
    return {"differences": differences} | {method: {key: row.get(key) for key in kept} for method, row in found.items()}


def test_every_row_stays_in_the_table(small):
    folder, table, outcome, _ = small
    rows = rows_of(folder / "out")
    differences = rows.pop("differences")
    assert list(rows) == [row.method for row in table.sections[0].rows]
    assert "mvdiff fit --config x.yaml, then --pano_base FOLDER" in rows["sd-pano"]["needs"]
    assert rows["sd-pano"]["published"] == {"FID": 23.02, "IS": 6.58, "CS": 28.63}
    assert "mvdiff import erp" in rows["text2light"]["needs"]
    for name in (*MADE, TRUTH):
        assert rows[name]["num_samples"] == 3
        assert rows[name]["needs"] is None
        assert rows[name]["shortcomings"] == []
        assert rows[name]["metrics"][PSNR]["value"] > 0
    assert set(differences) == {*MADE, TRUTH} - {"independent"}
    assert len({rows[name]["content_hash"] for name in (*MADE, TRUTH)}) == len(MADE) + 1
    assert not outcome.is_finished  # sd-pano was asked for
    assert [row.row.method for row in outcome.rows if row.is_failure] == ["sd-pano"]


def test_pages_have_the_same_rows_and_tell_no_path(small):
    folder, table, *_ = small
    text, page = ((folder / "out" / f"table1.{kind}").read_text() for kind in ("md", "html"))
    for row in table.sections[0].rows:
        line = next(line for line in text.splitlines() if line.startswith(f"| {row.label} |"))
        assert all(number in line for number in row.published)
        assert row.label in page
    assert "| SD (Pano) | missing |" in text
    assert "SD (Pano) (sd-pano) is missing: " in text
    assert "SD (Pano) (sd-pano) is missing: " in page
    assert "Not decided: The toy FID of MVDiffusion" in text  # 3 samples have no interval
    assert "The FID of a row has no interval where the protocol sets fid_resamples to 0" in text
    assert page.count("data:image") >= 3 * 5 * 8  # 3 rooms, 5 rows, 8 views
    for kind in ("md", "html", "json"):
        assert not telling(folder / "out" / f"table1.{kind}", folder)


def test_the_inputs_of_an_import_are_those_of_the_protocol(small):
    folder = small[0]
    place = folder / "out" / "small"
    assert json.loads((place / "rig.json").read_text()) == RIG.to_dict()
    prompts = json.loads((place / "prompts.json").read_text())
    assert [entry["id"] for entry in prompts] == ROOMS
    assert all(len(entry["prompt"]) == 8 for entry in prompts)


def test_differences_are_those_of_compare(small, tmp_path):
    folder = small[0]
    scores = folder / "out" / "small" / "scores"
    files = [str(scores / f"{name}.json") for name in ("independent", *DIFFERENT)]
    assert (
        main(["compare", *files, "--cache", str(folder / "out" / "features"), "--out", str(tmp_path / "d.json")]) == 0
    )
    compared = json.loads((tmp_path / "d.json").read_text())["differences"]
    assert compared == rows_of(folder / "out")["differences"]
    assert compared["mvdiffusion"]["toy_fid"]["num_paired_samples"] == 3


def test_nothing_finished_is_made_again(small):
    folder, table, *_ = small
    before = numbers_of(folder / "out")
    kept = [path for name in ("data", "samples", "scores") for path in (folder / "out" / "small" / name).rglob("*.*")]
    times = {path: path.stat().st_mtime_ns for path in kept}
    run_table(table, settings(folder / "out"))
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert numbers_of(folder / "out") == before


def test_a_killed_run_goes_on_to_the_same_numbers(small, tmp_path):
    """It is killed in the middle of a batch of each method, whose other sample is complete."""
    folder, _, _, models = small
    table, out = small_table(tmp_path, models), tmp_path / "out"
    samples = out / "small" / "samples"
    for method in ("inpainting", "multidiffusion"):
        run_until(sample_folder(samples / method, ROOMS[1]), table, settings(out))
        assert [path.name for path in find_samples(samples / method)] == ROOMS[:1]
    deadly = sample_folder(samples / "mvdiffusion", ROOMS[1])
    run(tmp_path / "log", run_killed, tmp_path, models, deadly, status=KILLED)
    assert (sample_folder(samples / "mvdiffusion", ROOMS[0]) / "sample.json").is_file()
    assert not (sample_folder(samples / "mvdiffusion", ROOMS[1]) / "sample.json").exists()
    assert not (out / "table1.json").exists()
    first = sample_folder(samples / "independent", ROOMS[0]) / "sample.json"
    written = first.stat().st_mtime_ns
    run_table(table, settings(out))
    assert first.stat().st_mtime_ns == written
    assert numbers_of(out) == numbers_of(folder / "out")


@pytest.fixture
def copied(small, tmp_path):
    """A copy of the whole run, to change."""
    shutil.copytree(small[0] / "out", tmp_path / "out")
    return small_table(tmp_path, small[3]), tmp_path / "out"


def test_results_of_other_pixels_are_not_used(copied):
    table, out = copied
    before = numbers_of(out)
    picture = sample_folder(out / "small" / "samples" / "mvdiffusion", ROOMS[2]) / "0.png"
    pixels = np.array(Image.open(picture))
    Image.fromarray(255 - pixels).save(picture)
    run_table(table, settings(out))
    after = numbers_of(out)
    assert after["mvdiffusion"]["content_hash"] != before["mvdiffusion"]["content_hash"]
    assert after["mvdiffusion"]["metrics"][PSNR]["value"] != before["mvdiffusion"]["metrics"][PSNR]["value"]
    assert after["independent"] == before["independent"]


def test_results_that_name_fewer_libraries_are_kept_and_those_of_others_are_not(copied):
    table, out = copied
    scores = [out / "small" / "scores" / f"{name}.json" for name in ("independent", "mvdiffusion")]
    for path, change in zip(scores, ({"numpy": None}, {"numpy": "0.1"}), strict=True):
        results = json.loads(path.read_text())
        versions = results["run"]["versions"] | change
        results["run"]["versions"] = {name: value for name, value in versions.items() if value is not None}
        path.write_text(json.dumps(results))
    written = [path.read_bytes() for path in scores]
    run_table(table, settings(out))
    assert [path.read_bytes() == before for path, before in zip(scores, written, strict=True)] == [True, False]


def test_results_of_another_reference_are_not_used(copied):
    table, out = copied
    before = numbers_of(out)
    for face in (out / "small" / "data" / "mp3d_skybox" / "toy00001").rglob("*skybox*.jpg"):
        Image.fromarray(255 - np.array(Image.open(face))).save(face)
    run_table(table, settings(out, only=("independent",)))
    rows = rows_of(out)
    assert rows["independent"]["metrics"]["toy_fid"]["value"] != before["independent"]["metrics"]["toy_fid"]["value"]
    assert rows["mvdiffusion"]["needs"] == "not asked for (--only)"  # its results are not of these data


def test_samples_of_another_model_are_refused_in_their_row(copied, small, tmp_path):
    _, out = copied
    other = small_table(tmp_path, panorama_parts(tmp_path / "other", RIG, seed=3))
    outcome = run_table(other, settings(out))
    needs = {row.row.method: row.need for row in outcome.rows}
    assert "settings.base_weights_hash of a complete sample" in needs["mvdiffusion"]
    assert "--overwrite" in needs["mvdiffusion"]
    assert outcome.sections[0].results.keys() == {TRUTH}
    before = numbers_of(small[0] / "out")
    outcome = run_table(other, settings(out, overwrite=True))
    assert numbers_of(out)["mvdiffusion"]["content_hash"] != before["mvdiffusion"]["content_hash"]
    assert numbers_of(out)[TRUTH] == before[TRUTH]


def test_only_some_rows(small, tmp_path):
    folder, table, *_ = small
    outcome = run_table(table, settings(tmp_path / "out", only=("independent",)))
    assert {row.row.method for row in outcome.rows if row.results} == {"independent"}
    assert outcome.is_finished
    outcome = run_table(table, settings(tmp_path / "out", only=(TRUTH,)))
    assert {row.row.method for row in outcome.rows if row.results} == {"independent", TRUTH}  # that of before is shown
    assert numbers_of(tmp_path / "out")["independent"] == numbers_of(folder / "out")["independent"]


def test_imported_samples_have_a_row(copied):
    table, out = copied
    samples = out / "small" / "samples"
    words = (f"text2light={samples / TRUTH}", f"mine={samples / 'independent'}")
    outcome = run_table(table, settings(out, imported=words))
    rows = rows_of(out)
    assert rows["text2light"]["metrics"][PSNR]["value"] == rows[TRUTH]["metrics"][PSNR]["value"]
    assert rows["mine"]["metrics"][PSNR]["value"] == rows["independent"]["metrics"][PSNR]["value"]
    assert rows["mine"]["published"] is None
    assert rows["differences"]["mine"][PSNR]["difference"] == 0
    outcome = run_table(table, settings(out, imported=(f"text2light={out / 'nothing'}",)))
    assert [row.row.method for row in outcome.rows if row.is_failure] == ["text2light", "sd-pano"]


def test_deviations_are_told_and_do_not_finish_a_run(copied):
    table, out = copied
    imported = out / "imported"
    shutil.copytree(out / "small" / "samples" / "independent", imported)
    record = sample_folder(imported, ROOMS[0]) / "sample.json"
    record.write_text(record.read_text().replace('"num_inference_steps": 1', '"num_inference_steps": 7'))
    only = settings(out, only=("text2light",), imported=(f"text2light={imported}",))
    outcome = run_table(table, only)
    assert not outcome.is_finished
    assert "sampling.num_inference_steps must be 1; got '7'" in rows_of(out)["text2light"]["shortcomings"][0]


@pytest.fixture(scope="module")
def small_frames(tmp_path_factory):
    """The same of frames."""
    folder = tmp_path_factory.mktemp("frames")
    table = small_depth_table(folder, depth_parts(folder))
    return folder, table, run_table(table, depth_settings(folder / "out"))


def test_frames_are_the_windows_that_the_protocol_names(small_frames):
    folder, _, outcome = small_frames
    scored = outcome.sections[0].results[TRUTH]
    assert list(scored["generated"]["images"]) == ["toy00001_keyframes_0", "toy00002_keyframes_0"]
    assert outcome.is_finished
    assert scored["metrics"][PSNR]["model"] == "depth and pose"
    rows = rows_of(folder / "out")
    assert [row["shortcomings"] for name, row in rows.items() if name != "differences"] == [[]] * len(WALKED)
    assert len({rows[name]["content_hash"] for name in WALKED}) == len(WALKED)
    assert "toy FID" not in (folder / "out" / "table2.md").read_text().replace("There is no toy FID here", "")


def test_a_killed_run_of_frames_goes_on_to_the_same_numbers(small_frames, tmp_path):
    folder, table, _ = small_frames
    out = tmp_path / "out"
    samples = out / "walks" / "samples"
    for method in ("repaint", "controlnet-inpainting", "mvdiffusion"):
        run_until(sample_folder(samples / method, "toy00002_keyframes_0"), table, depth_settings(out))
        assert [path.name for path in find_samples(samples / method)] == ["toy00001_keyframes_0"]
    run_table(table, depth_settings(out))
    assert numbers_of(out) == numbers_of(folder / "out")


def planted(**means: float) -> dict:
    """Results of methods whose 32 per-sample overlap PSNRs scatter around a mean."""
    found = {}
    column = metric_columns()[PSNR]
    for seed, (name, mean) in enumerate(means.items()):
        noise = np.random.default_rng(seed).normal(size=32)
        values = {f"s{number:02d}": mean + float(one) for number, one in enumerate(noise - noise.mean())}
        entry = {"value": mean, "model": "homography", "variant": "x", "per_sample": values}
        found[name] = {
            "protocol": {"id": "p", "hash": "0", "values": {}},
            "generated": {"path": name, "images": {key: ["0"] for key in values}},
            "reference": None,
            "metrics": {PSNR: entry},
            "columns": {PSNR: {"title": column.title}},
        }
    return found


ORDER = Expectation(sentence="a above b, and b above c.", task="panorama", number=PSNR, higher=(("a", "b"), ("b", "c")))


@pytest.mark.parametrize(
    ("means", "answer"),
    [
        ({"a": 30.0, "b": 20.0, "c": 10.0}, "held"),
        ({"a": 30.0, "b": 10.0, "c": 20.0}, "did not hold"),
        ({"a": 10.0, "b": 20.0, "c": 20.0}, "did not hold"),
        ({"a": 30.0, "b": 20.0, "c": 20.0}, "not decided"),
        ({"a": 30.0, "b": 20.0}, "not decided"),
        ({"b": 10.0, "c": 20.0}, "did not hold"),
    ],
)
def test_verdicts(means, answer):
    verdict = verdict_of(ORDER, planted(**means), None)
    assert verdict.answer == answer
    for (higher, lower), found in verdict.pairs.items():
        if {higher, lower} <= means.keys():
            assert found.interval.estimate == pytest.approx(means[higher] - means[lower])
            assert found.num_samples == 32
        else:
            assert found is None


def test_a_verdict_needs_intervals_and_one_protocol():
    few = planted(a=30.0, b=20.0, c=10.0)
    for results in few.values():
        values = results["metrics"][PSNR]["per_sample"]
        results["metrics"][PSNR]["per_sample"] = dict(list(values.items())[:7])
    assert verdict_of(ORDER, few, None).answer == "not decided"
    other = planted(a=30.0, b=20.0, c=10.0)
    other["a"]["protocol"] = {"id": "q", "hash": "1", "values": {}}
    assert verdict_of(ORDER, other, None).answer == "not decided"
    alone = replace(ORDER, higher=(("b", "c"),))
    assert verdict_of(alone, other, None).answer == "held"
