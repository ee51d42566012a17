"""Numbers that are not of all samples, lack their reference, or compare unlike views are named and fail --strict."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.eval.runner import evaluate
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.shortcomings import left_out, shortcomings
from mvdiff.eval.table import how
from mvdiff.geometry.cameras import RingRig
from mvdiff.recipes.benchmarks.outcome import RowOutcome, SectionOutcome, TableOutcome
from mvdiff.recipes.benchmarks.page import deviations_of
from mvdiff.recipes.benchmarks.table1 import GROUND_TRUTH, PANORAMAS, TABLE1
from mvdiff.samples import save_panorama
from tests.eval.worlds import write_judge, write_samples

AS_IS = EvaluationSettings(overlap_size=0, device="cpu", num_resamples=100)
LARGE = RingRig(num_views=8, height=48, width=48)
FOUR = RingRig(num_views=4, height=12, width=12)
PANORAMA = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)


def flatten(root, name):
    """Make all views of a sample grey, so that it has no correlation and no step at borders."""
    for path in (root / name).glob("?.png"):
        Image.new("RGB", (12, 12), (90, 90, 90)).save(path)


@pytest.fixture
def flat(tmp_path):
    """Three samples, of which one is flat, and three real ones."""
    root, real = write_samples(tmp_path / "a", num=3, noise=0.2), write_samples(tmp_path / "b", num=3)
    flatten(root, "s1")
    return root, real


def strict(root, real, *words):
    """Return the exit status of a strict evaluation."""
    paths = ["--generated", str(root), "--reference", str(real), "--num_workers", "0"]
    return main(["evaluate", *paths, *words, "--strict"])


def test_a_number_of_some_samples_is_named_with_its_counts(flat, capsys):
    metrics = ("overlap_zncc", "border_ratio", "sharpness")
    line = "overlap_zncc, border_ratio: measured on 2 of 3 samples"
    results = evaluate(*flat, metrics, AS_IS)
    assert left_out(results) == results["left_out"] == shortcomings(results) == [line]
    assert strict(*flat, "--metrics", *metrics, "--overlap_size", "0") == 3
    printed = capsys.readouterr()
    assert line in printed.out
    assert line in printed.err
    flatten(flat[1], "s0")
    flatten(flat[1], "s2")
    assert shortcomings(evaluate(*flat, ("border_ratio",), AS_IS)) == [
        "border_ratio: measured on 2 of 3 samples",
        "border_ratio: measured on 1 of 3 reference samples",
    ]


def test_a_row_of_a_table_with_such_a_number_is_not_finished(flat):
    results = evaluate(*flat, ("overlap_zncc", "sharpness"), AS_IS)
    row = RowOutcome(GROUND_TRUTH, flat[0], results)
    section = SectionOutcome(PANORAMAS, PANORAMAS.protocol("toy"), [row])
    assert not TableOutcome(TABLE1, [section]).is_finished
    assert deviations_of(section) == ["truth: overlap_zncc: measured on 2 of 3 samples"]
    row.results = evaluate(*flat, ("sharpness",), AS_IS)
    assert TableOutcome(TABLE1, [section]).is_finished


def test_a_reference_that_a_metric_cannot_read_is_a_shortcoming(tmp_path, flat):
    for root in flat:
        for name in ("s0", "s1", "s2"):
            save_panorama(root / name / "panorama.png", PANORAMA)
    assert shortcomings(evaluate(*flat, ("wrap_ratio", "ds"), AS_IS)) == []
    for name in ("s1", "s2"):
        (flat[1] / name / "panorama.png").unlink()
    results = evaluate(*flat, ("wrap_ratio", "ds"), AS_IS)
    (line,) = shortcomings(results)
    assert line.startswith("wrap_ratio, ds: no reference: panorama must be stored as panorama.png")
    assert line.endswith("(at reference sample 's1')")
    assert "no reference: panorama must be stored" in how(results["metrics"]["ds"])
    assert strict(*flat, "--metrics", "wrap_ratio", "ds") == 3


def test_a_reference_that_is_not_there_is_said_once(flat):
    class Broken:
        def describe(self):
            return {"path": "memory"}

        def __iter__(self):
            raise ValueError("nowhere")

    lines = shortcomings(evaluate(flat[1], Broken(), ("sharpness", "border_ratio"), AS_IS))
    assert lines == ["left out the reference: nowhere"]


def test_true_labels_of_some_samples_and_of_unknown_ones_are_said(tmp_path, flat):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"s0": [{"colour": "red"}] + 7 * [None], "s9": 8 * [None]}))
    settings = replace(AS_IS, toy_features=str(write_judge(tmp_path / "judge")), truth=str(truth))
    results = evaluate(flat[0], None, ("caption_agreement",), settings)
    assert results["metrics"]["label_agreement"]["num_samples"] == 1
    unknown = "1 of 2 samples in truth were not scored: s9"
    missing = f"no view states a true label of every judged head (object, colour, walls). {unknown}"
    assert shortcomings(results) == [
        "label_agreement: measured on 1 of 3 samples",
        f"label_agreement: {unknown}",
        f"caption_agreement is missing: {missing}",
    ]
    truth.write_text(json.dumps({"s9": 8 * [None]}))
    entry = evaluate(flat[0], None, ("caption_agreement",), settings)["metrics"]["label_agreement"]
    assert entry["missing"].startswith("no sample has true labels.")
    assert entry["missing"].endswith("1 of 1 samples in truth were not scored: s9")
    every = [{"object": "sofa", "colour": "red", "walls": "green"}] * 8
    truth.write_text(json.dumps({name: every for name in ("s0", "s1", "s2")}))
    assert shortcomings(evaluate(*flat, ("caption_agreement",), settings)) == []


def test_other_sizes_of_views_are_named_where_a_number_depends_on_them(tmp_path, capsys):
    root, real = write_samples(tmp_path / "a", num=3), write_samples(tmp_path / "b", num=3, rig=LARGE)
    results = evaluate(root, real, ("sharpness", "border_ratio", "overlap_zncc"), AS_IS)
    numbers = "sharpness_gradient_energy, sharpness_laplacian_variance, border_ratio, overlap_zncc"
    line = f"{numbers}: views of 12x12 pixels are compared with 48x48 of the reference in 3 samples: s0, s1, s2"
    assert shortcomings(results) == [line]
    assert strict(root, real, "--metrics", "sharpness", "border_ratio", "overlap_zncc", "--overlap_size", "0") == 3
    assert line in capsys.readouterr().out
    resizing = replace(AS_IS, overlap_size=24, toy_features=str(write_judge(tmp_path / "judge")), num_splits=2)
    metrics = ("toy_fid", "toy_inception_score", "overlap_psnr", "overlap_zncc", "overlap_chance")
    assert shortcomings(evaluate(root, real, metrics, resizing)) == []


def test_other_counts_of_views_are_named_unless_no_number_reads_views(tmp_path):
    root, real = write_samples(tmp_path / "a", num=3, rig=FOUR), write_samples(tmp_path / "b", num=3)
    lines = shortcomings(evaluate(root, real, ("sharpness",), AS_IS))
    numbers = "sharpness_gradient_energy, sharpness_laplacian_variance"
    line = f"{numbers}: 4 views per sample are compared with 8 of the reference in 3 samples: s0, s1, s2"
    assert lines == [line]
    assert shortcomings(evaluate(root, None, ("sharpness",), AS_IS)) == []
    for folder in (root, real):
        for name in ("s0", "s1", "s2"):
            save_panorama(folder / name / "panorama.png", PANORAMA)
    assert shortcomings(evaluate(root, real, ("wrap_ratio", "ds"), AS_IS)) == []


def test_two_sets_without_common_ids_are_compared_as_sets(tmp_path):
    judge = replace(AS_IS, toy_features=str(write_judge(tmp_path / "judge")))
    write_samples(tmp_path / "all", num=5, rig=LARGE)
    real = tmp_path / "real"
    for name in ("s3", "s4"):
        shutil.copytree(tmp_path / "all" / name, real / name)
    root = write_samples(tmp_path / "a", num=2)
    lines = shortcomings(evaluate(root, real, ("toy_fid", "border_ratio"), judge))
    assert lines == ["border_ratio: views of 12x12 pixels are compared with 48x48 of the reference"]
    four = write_samples(tmp_path / "four", num=2, rig=FOUR)
    assert shortcomings(evaluate(four, real, ("toy_fid",), judge)) == [
        "toy_fid: 8 views are compared with 16 of the reference"
    ]
