"""Tables of small rooms: rows, kills, stale results, differences, and what is written."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.recipes.benchmarks.runner import run_table
from mvdiff.recipes.benchmarks.table import TRUTH
from mvdiff.recipes.scoring import PSNR
from mvdiff.samples import find_samples, sample_folder
from tests.forked import KILLED, run
from tests.method_parts import panorama_parts
from tests.recipes.small_tables import RIG, numbers_of, rows_of, run_killed, run_until, settings, small_table
from tests.shared_files import telling

MADE = ("inpainting", "independent", "multidiffusion", "mvdiffusion")
DIFFERENT = ("inpainting", "multidiffusion", "mvdiffusion", TRUTH)
ROOMS = [f"toy{room:05d}_toy{room:05d}" for room in (1, 2, 3)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A table, its models, and the outcome of a whole run."""
    folder = tmp_path_factory.mktemp("tables")
    models = panorama_parts(folder, RIG)
    table = small_table(folder, models)
    return folder, table, run_table(table, settings(folder / "out"), "mvdiff benchmark table1"), models


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


def test_rows_that_were_not_scored_by_the_code_of_one_commit_are_warned_about(copied):
    table, out = copied
    for name in ("independent", "mvdiffusion"):
        path = out / "small" / "scores" / f"{name}.json"
        results = json.loads(path.read_text())
        results["run"]["commit"] = "1" * 40 + "-dirty"
        path.write_text(json.dumps(results))
    run_table(table, settings(out))
    text = (out / "table1.md").read_text()
    assert "Warning: these results were made at 2 commits" in text
    named = re.search(r"Warning: the code that made these results is not known.*", text)[0]
    assert f"{'1' * 40}-dirty on a machine that was not recorded: independent, mvdiffusion" in named


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
