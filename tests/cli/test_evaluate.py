"""`mvdiff evaluate`, in-process, over real folders."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mvdiff.cli.main import find_command, main
from mvdiff.cli.options import CommandParser
from mvdiff.cli.rig_files import read_rig
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import source_from_config
from tests.cli.last_lines import next_commands
from tests.data.folders import write_matterport3d
from tests.eval.worlds import RIG, write_judge, write_samples, write_upstream


def write_config(tmp_path: Path, **changes) -> Path:
    root = write_matterport3d(tmp_path / "mp3d", num_train=3, num_test=2)
    rig = {"class_path": "mvdiff.geometry.cameras.RingRig", "init_args": {"num_views": 8, "height": 12, "width": 12}}
    init_args = {"root": str(root), "rig": rig, "num_val": 1, **changes}
    section = {"class_path": "mvdiff.data.datamodule.Matterport3DDataModule", "init_args": init_args}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"seed_everything": 0, "trainer": {"max_epochs": 1}, "data": section}))
    return path


def test_scores_two_folders(tmp_path, capsys):
    generated, reference = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b")
    out = tmp_path / "out" / "results.json"
    arguments = ["--metrics", "overlap_psnr", "toy_fid", "sharpness", "--overlap_size", "0", "--num_resamples", "100"]
    arguments += ["--toy_features", str(write_judge(tmp_path / "judge")), "--out", str(out)]
    status = main(["evaluate", "--generated", str(generated), "--reference", str(reference), *arguments])
    assert status == 0
    results = json.loads(out.read_text())
    assert results["metrics"]["overlap_psnr_pooled"]["ratio_to_reference"] < 1
    assert results["metrics"]["toy_fid"]["model"] == "toy-features"
    assert results["settings"]["overlap_size"] == 0
    printed = capsys.readouterr().out
    assert "toy_fid" in printed
    assert "4 samples" in printed
    assert next_commands(printed) == ["report"]


def test_reference_from_the_data_section_of_a_run(tmp_path):
    config = write_config(tmp_path)
    generated = write_samples(tmp_path / "a", num=2)
    out = tmp_path / "results.json"
    arguments = ["--config", str(config), "--metrics", "overlap_psnr", "--overlap_size", "0", "--out", str(out)]
    assert main(["evaluate", "--generated", str(generated), *arguments]) == 0
    reference = json.loads(out.read_text())["reference"]
    assert reference["kind"] == "test split of the data section"
    assert reference["num_samples"] == 2


def test_ground_truth_itself_is_scored_without_generated(tmp_path):
    out = tmp_path / "results.json"
    arguments = ["--metrics", "overlap_psnr", "--overlap_size", "0", "--out", str(out)]
    assert main(["evaluate", "--config", str(write_config(tmp_path)), *arguments]) == 0
    results = json.loads(out.read_text())
    assert results["generated"]["kind"] == "test split of the data section"
    assert results["reference"] is None
    assert results["metrics"]["overlap_psnr_pooled"]["num_pairs"] == 16
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *arguments])
    assert exit_.value.code == 2


def test_splits_and_overlays(tmp_path):
    config = write_config(tmp_path)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data:\n  init_args:\n    max_test_samples: 1\n")
    samples = list(source_from_config([config, overlay]))
    assert len(samples) == 1
    assert samples[0].images_uint8.shape == (8, 3, 12, 12)
    assert not any(prompt.startswith("This is one view") for prompt in samples[0].prompts)
    assert len(list(source_from_config([config], "val"))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {}", "must have a valid data section; got none"),
        ("data: {class_path: mvdiff.data.datamodule.Matterport3DDataModule, init_args: {rot: x}}", "rot"),
        ("data: [", "must have a valid data section"),
    ],
)
def test_wrong_configs_are_one_clear_error(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        source_from_config([path])


def test_reference_data_that_is_missing_is_reported(tmp_path):
    config = write_config(tmp_path, root=str(tmp_path / "nowhere"))
    out = tmp_path / "results.json"
    generated = write_samples(tmp_path / "a", num=1)
    arguments = ["--config", str(config), "--metrics", "overlap_psnr", "--overlap_size", "0", "--out", str(out)]
    assert main(["evaluate", "--generated", str(generated), *arguments]) == 0
    results = json.loads(out.read_text())
    assert "nowhere" in results["reference"]["missing"]
    assert "value" in results["metrics"]["overlap_psnr_pooled"]


def test_upstream_layout_with_a_rig_file(tmp_path):
    root = write_upstream(tmp_path / "up", num=1)
    rig = tmp_path / "rig.json"
    rig.write_text(json.dumps(RIG.to_dict()))
    out = tmp_path / "r.json"
    arguments = ["--metrics", "overlap_psnr", "--overlap_size", "0", "--rig", str(rig), "--out", str(out)]
    assert main(["evaluate", "--generated", str(root), *arguments]) == 0
    assert json.loads(out.read_text())["metrics"]["overlap_psnr_pooled"]["ratio_to_reference"] < 1
    rig.write_text("{}")
    with pytest.raises(ValueError, match=r"--rig must be a JSON file with views, height, width; got .*rig\.json"):
        read_rig(rig)
    for path, found in ((tmp_path / "none.json", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(FileNotFoundError, match=rf"--rig must be a JSON file .*; got {path}, which {found}"):
            read_rig(path)


def test_user_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", "--generated", str(tmp_path / "empty"), "--metrics", "overlap_psnr"]) == 1
    error = capsys.readouterr().err
    assert "at least one complete sample" in error
    assert "Traceback" not in error
    with pytest.raises(SystemExit):
        main(["evaluate", "--generated", "a", "--reference", "b", "--config", "c.yaml"])


def test_options_follow_the_settings():
    parser = CommandParser(find_command(["evaluate"]))
    assert parser.settings(["--generated", "x"])[1] == EvaluationSettings()
    words = [
        "--generated",
        "x",
        "--judge_heads",
        "object",
        "colour",
        "--overlap_pairs",
        "[[0, 2], [5, 3]]",
        "--fid_resamples",
        "109",
    ]
    settings = parser.settings(words)[1]
    assert settings.judge_heads == ("object", "colour")
    assert [tuple(pair) for pair in settings.overlap_pairs] == [(0, 2), (5, 3)]
    assert settings.fid_resamples == 109


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--metrics", "psnr"], "--metrics must be some of"),
        (["--metrics", "nowhere.Metric"], "nowhere.Metric"),
        (["--metrics", "toy_fid"], "toy_fid: no reference images. Pass --reference DIR or --config YAML."),
        (["--metrics", "sharpness", "kid"], "kid: no reference images"),
        (["--metrics", "thing_colours"], "thing_colours: no sample has known objects"),
        (["--metrics", "sharpness", "--truth", "x.json"], "--truth is not used by sharpness; "),
        (
            ["--metrics", "sharpness", "--overlap_size", "0"],
            "choose overlap_chance or overlap_psnr or overlap_zncc in --metrics",
        ),
        (
            ["--metrics", "kid", "--fid_resamples", "100"],
            "--fid_resamples is not used by kid; ",
        ),
        (["--metrics", "caption_agreement", "--truth", "x.json"], "--truth must be an existing path; got x.json"),
        (["--metrics", "caption_agreement", "--toy_features", "none"], "--toy_features must be an existing path"),
        (["--metrics", "caption_agreement", "--judge_heads", "ceiling"], "judge_heads must be among"),
        (["--metrics", "clip_score", "--clip_weights", "none.pt"], "--clip_weights must be an existing file or a tag"),
        (["--metrics", "overlap_psnr", "--overlap_size", "-1"], "overlap_size must be at least 0; got -1"),
        (["--metrics", "overlap_psnr", "--overlap_depth_error", "nan"], "overlap_depth_error must be at least 0"),
        (["--metrics", "overlap_psnr", "--overlap_pairs", "[[1, 1]]"], "overlap_pairs must be adjacent"),
        (["--metrics", "toy_inception_score", "--num_splits", "0"], "num_splits must be at least 1; got 0"),
        (["--batch_size", "0"], "batch_size must be at least 1; got 0"),
        (["--num_resamples", "99"], "num_resamples must be at least 100; got 99"),
        (["--fid_resamples", "1"], "fid_resamples must be at least 100, or 0 for no interval; got 1"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--num_workers", "-1"], "--num_workers must be at least 0"),
        (["--metrics", "sharpness", "--device", "tpu9"], "device must be auto, cpu or cuda; got 'tpu9'"),
        (["--metrics", "sharpness", "--split", "val"], "--split val needs --config"),
    ],
)
def test_wrong_options_end_with_status_2_before_any_work(tmp_path, capsys, words, text):
    root = write_samples(tmp_path / "a", num=1)
    (root / "s0" / "0.png").write_bytes(b"never read")
    out = tmp_path / "results.json"
    try:
        status = main(["evaluate", "--generated", str(root), "--out", str(out), *words])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_a_rig_that_no_sample_needs_is_refused(tmp_path, capsys):
    rig = tmp_path / "rig.json"
    rig.write_text(json.dumps(RIG.to_dict()))
    root = write_samples(tmp_path / "a", num=1)
    assert main(["evaluate", "--generated", str(root), "--metrics", "sharpness", "--rig", str(rig)]) == 2
    assert "--rig is for samples of the 2023 release" in capsys.readouterr().err
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(root / "s0" / "0.png", images / "room.png")
    assert main(["evaluate", "--generated", str(images), "--metrics", "sharpness", "--rig", str(rig)]) == 2
    assert "--rig is for samples of the 2023 release" in capsys.readouterr().err


def test_the_last_line_repeats_the_options_of_the_user(tmp_path, capsys):
    root, real = write_samples(tmp_path / "my samples", num=2, noise=0.2), write_samples(tmp_path / "b", num=2)
    words = ["--generated", str(root), "--reference", str(real), "--num_workers", "0", "--metrics", "sharpness"]
    assert main(["evaluate", *words]) == 0
    printed = capsys.readouterr().out
    assert next_commands(printed) == ["evaluate"]
    assert shlex.split(printed.split(". Next: ")[1]) == ["mvdiff", "evaluate", *words, "--out", "results.json"]


def test_nothing_computed_ends_with_status_3(tmp_path, capsys):
    out = tmp_path / "results.json"
    words = ["evaluate", "--generated", str(write_samples(tmp_path / "a", num=2)), "--out", str(out)]
    assert main([*words, "--metrics", "given"]) == 3
    assert "no metric could be computed" in capsys.readouterr().err
    assert "no sample has given pixels" in json.loads(out.read_text())["metrics"]["known_psnr"]["missing"]
    assert main([*words, "--metrics", "given", "sharpness"]) == 0
    assert main([*words, "--metrics", "given", "sharpness", "--strict"]) == 3
    error = capsys.readouterr().err
    assert "--strict finds 2 shortcomings" in error
    assert "known_psnr is missing: no sample has given pixels" in error


def test_strict_fails_where_the_reference_is_incomplete(tmp_path, capsys):
    root, real = write_samples(tmp_path / "a", num=3), write_samples(tmp_path / "b", num=3)
    words = ["evaluate", "--generated", str(root), "--reference", str(real), "--metrics", "sharpness", "--strict"]
    assert main(words) == 0
    (real / "s1" / "sample.json").unlink()
    assert main(words[:-1]) == 0
    assert "the reference lacks 1 of 3 generated samples: s1" in capsys.readouterr().out
    assert main(words) == 3
    assert f"left out {real / 's1'}: its sample.json is missing" in capsys.readouterr().err
