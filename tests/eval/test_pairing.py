"""Unpaired samples are named and counted; names and order of folders change no number."""

import shutil

import pytest
import torch
from PIL import Image

from mvdiff.eval.image_folder import ImageFolder, open_folder
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.shortcomings import left_out, shortcomings
from mvdiff.eval.sources import FolderSource
from mvdiff.eval.table import results_table
from mvdiff.eval.text_table import text_table
from tests.eval.worlds import views, write_judge, write_samples

METRICS = ("toy_fid", "toy_inception_score", "overlap_psnr", "sharpness")


@pytest.fixture
def toy(tmp_path):
    judge = str(write_judge(tmp_path / "judge"))
    return EvaluationSettings(toy_features=judge, overlap_size=0, num_splits=3, num_resamples=100)


def write_images(folder, seeds=range(4), name="kitchen_{:02d}.png"):
    """Write the first view of some samples as plain images."""
    folder.mkdir()
    for seed in seeds:
        Image.fromarray(views(seed)[0]).save(folder / name.format(seed))
    return folder


def test_renamed_folders_and_shuffled_samples_give_the_same_numbers(tmp_path, toy):
    root, real = write_samples(tmp_path / "a", num=5, noise=0.2), write_samples(tmp_path / "b", num=5)
    metrics = [*METRICS, "tests.eval.gathering.ToyKID", "overlap_chance", "overlap_zncc", "border_ratio"]
    first = evaluate(root, real, metrics, toy)
    for number in range(5):
        shutil.copytree(root / f"s{number}", tmp_path / "renamed" / f"{'zmbya'[number]}/run")
        shutil.copytree(real / f"s{number}", tmp_path / "real" / "caxfm"[number])
    second = evaluate(tmp_path / "renamed", tmp_path / "real", metrics, toy)
    assert [sample.sample_id for sample in FolderSource(tmp_path / "renamed")] != [f"s{i}" for i in range(5)]
    assert second["metrics"] == first["metrics"]
    assert list(second["metrics"]["sharpness_gradient_energy"]["per_sample"]) == [f"s{i}" for i in range(5)]


def test_an_incomplete_reference_is_named_and_pairs_are_counted(tmp_path, toy):
    root, real = write_samples(tmp_path / "a", num=3, noise=0.2), write_samples(tmp_path / "b", num=4)
    shutil.rmtree(real / "s1")
    results = evaluate(root, real, METRICS, toy)
    assert results["pairing"] == {"num_paired": 2, "only_generated": ["s1"], "only_reference": ["s3"]}
    for entry in results["metrics"].values():
        assert [entry[f"num_{kind}samples"] for kind in ("", "reference_", "paired_")] == [3, 3, 2]
    lines = [
        "the reference lacks 1 of 3 generated samples: s1",
        "1 of 3 reference samples have no generated sample: s3",
    ]
    assert left_out(results) == shortcomings(results) == lines
    text = " ".join(results_table(results, 80).split())
    assert text.count("3 samples, 3 of the reference, 2 in both") == len(results["metrics"])


def test_samples_that_cannot_be_read_are_named_on_both_sides(tmp_path, toy):
    root, real = write_samples(tmp_path / "a", num=3), write_samples(tmp_path / "b", num=3)
    (root / "s0" / "1.png").write_bytes(b"broken")
    (real / "s2" / "sample.json").unlink()
    lines = shortcomings(evaluate(root, real, ("sharpness",), toy))
    assert len(lines) == 4
    assert lines[0].startswith(f"left out {root / 's0'}: ")
    assert lines[1] == f"left out {real / 's2'}: its sample.json is missing"
    assert "lacks 1 of 2 generated samples: s2" in lines[2]
    assert "1 of 2 reference samples have no generated sample: s0" in lines[3]


def test_two_sets_without_common_ids_may_be_compared_if_equal_in_number(tmp_path, toy):
    images = write_images(tmp_path / "a"), write_images(tmp_path / "b", name="img_{:04d}.jpg")
    results = evaluate(*images, ("toy_fid",), toy)
    assert left_out(results) == ["no sample id is on both sides: 4 samples are compared with 4 others as two sets"]
    assert shortcomings(results) == []
    (images[1] / "img_0003.jpg").unlink()
    assert shortcomings(evaluate(*images, ("toy_fid",), toy)) == ["4 samples are compared with 3 reference samples"]


def test_one_id_twice_is_an_error(tmp_path, toy):
    root = write_samples(tmp_path / "all" / "run_a", num=2)
    write_samples(tmp_path / "all" / "run_b", num=1)
    with pytest.raises(ValueError, match="'s0'"):
        evaluate(tmp_path / "all", None, ("sharpness",), toy)
    twice = [*FolderSource(root), *FolderSource(root)]
    twice = type("Twice", (list,), {"describe": lambda self: {"path": "memory", "num_samples": 4}})(twice)
    with pytest.raises(ValueError, match="sample ids must be unique; got 's0', 's1' twice, in memory"):
        evaluate(twice, None, ("sharpness",), toy)


def test_a_folder_of_images_scores_as_samples_of_one_view(tmp_path, toy):
    folder = write_images(tmp_path / "images")
    write_images(tmp_path / "real", seeds=range(4, 8), name="IMG_{:02d}.JPG")
    (folder / "._kitchen_00.png").write_bytes(b"\0\5\26\7")
    (folder / "notes.txt").write_text("not an image")
    results = evaluate(folder, tmp_path / "real", METRICS, toy)
    metrics, described = results["metrics"], results["generated"]
    assert (described["kind"], described["num_samples"], described["num_unreadable"]) == ("images", 4, 0)
    assert results["reference"]["num_samples"] == 4
    assert "each image counts as one sample of one view" in described["note"]
    assert (metrics["toy_fid"]["num_images"], metrics["toy_fid"]["num_reference_images"]) == (4, 4)
    assert metrics["toy_inception_score"]["num_images"] == 4
    assert list(metrics["sharpness_gradient_energy"]["per_sample"]) == [f"kitchen_{i:02d}" for i in range(4)]
    assert "An image alone has one view" in metrics["overlap_psnr_pooled"]["missing"]
    stacked = torch.cat([sample.images_uint8 for sample in ImageFolder(folder)])
    assert torch.equal(stacked, torch.stack([torch.from_numpy(views(i)[0]).permute(2, 0, 1) for i in range(4)]))


def test_images_in_folders_below_are_named_as_left_out(tmp_path, toy):
    folder = write_images(tmp_path / "images", seeds=range(3))
    write_images(folder / "more")
    (folder / "more" / "notes.txt").write_text("no image")
    results = evaluate(folder, None, ("sharpness",), toy)
    assert results["generated"]["num_samples"] == 3
    (line,) = shortcomings(results)
    named = ", ".join(f"more/kitchen_{i:02d}.png" for i in range(4))
    assert line == f"left out 4 images in folders below {folder}: {named}"
    assert "3 samples, 4 left out" in results_table(results, 80)


def test_captions_beside_images_are_their_prompts(tmp_path):
    folder = write_images(tmp_path / "images")
    for path in folder.glob("*.png"):
        path.with_suffix(".txt").write_bytes(b"\xef\xbb\xbfa kitchen\r\n")
    (folder / "kitchen_03.txt").unlink()
    assert [sample.prompts for sample in open_folder(folder)] == [["a kitchen"]] * 3 + [[]]


def test_images_that_differ_in_their_ending_alone_keep_it(tmp_path):
    folder = write_images(tmp_path / "images", seeds=range(2))
    Image.fromarray(views(7)[0]).save(folder / "kitchen_00.jpg")
    (folder / "kitchen_01.png").write_bytes(b"broken")
    source = open_folder(folder)
    assert [sample.sample_id for sample in source] == ["kitchen_00.jpg", "kitchen_00.png"]
    (broken,) = source.describe()["unreadable"]
    assert broken["folder"].endswith("kitchen_01.png")


def test_a_sample_that_a_killed_run_left_is_no_folder_of_images(tmp_path):
    root = write_samples(tmp_path / "a", num=1)
    (root / "s0" / "sample.json").unlink()
    with pytest.raises(ValueError, match="at least one complete sample; got 1 incomplete"):
        open_folder(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"A sample is a folder with <i>\.png for each view and sample\.json"):
        open_folder(tmp_path / "empty")


@pytest.mark.parametrize("width", [8, 20, 45, 90])
def test_a_table_never_cuts_a_number(width):
    numbers = {"value": -1.234e-5, "interval": [-5.678e-5, 9.1011e20], "reference": 123.4, "ratio_to_reference": 1.0}
    entries = {"overlap_psnr_mean_of_pairs": numbers | {"model": "homography"}, "fid": {"missing": "no reference."}}
    text = results_table({"generated": {"path": "out", "num_samples": 8}, "metrics": entries}, width)
    assert {"-1.234e-05", "-5.678e-05..9.101e+20", "123.4", "1", "missing"} <= set(text.replace(" .. ", "..").split())


def test_a_long_name_wraps_and_numbers_stay_whole():
    text = text_table(["metric", "value"], [["a_very_long_name_of_a_metric_of_a_user", "1234567.891"]], 40)
    assert "1234567.891" in text
    assert max(map(len, text.splitlines())) <= 40
    assert "".join(line.split()[0] for line in text.splitlines()[2:]) == "a_very_long_name_of_a_metric_of_a_user"


def test_plain_images_follow_the_rules_of_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_images(tmp_path / "plain", range(2), "cafe\u0301{}.PNG")
    (folder / "caf\u00e90.TXT").write_text("a café")
    (folder / "._cafe\u03010.PNG").write_bytes(b"")
    samples = [(sample.sample_id, sample.prompts) for sample in open_folder("~/plain")]
    assert samples == [("caf\u00e90", ["a café"]), ("caf\u00e91", [])]
