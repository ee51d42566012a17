"""`mvdiff import`: last lines, exit statuses, and the way from `mvdiff evaluate` to it."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.samples import read_sample
from tests.cli.last_lines import next_commands
from tests.data.folders import FACE_COLOURS, write_equirectangular, write_matterport3d
from tests.eval.worlds import views


def status_of(words):
    try:
        return main(words)
    except SystemExit as stopped:
        return stopped.code


@pytest.fixture
def rig(tmp_path):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps({"views": [[0, 0, 90], [60, 10, 80]], "height": 12, "width": 16}))
    return path


@pytest.mark.parametrize(("kind", "write"), [("erp", write_equirectangular), ("cubemap", write_matterport3d)])
def test_panoramas(tmp_path, capsys, rig, kind, write):
    root, out = write(tmp_path / "theirs", 1, 1), tmp_path / "out"
    words = [
        "import",
        kind,
        str(root),
        "--out",
        str(out),
        "--rig",
        str(rig),
        "--num_workers",
        "0",
        "--method",
        "Theirs",
    ]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert next_commands(text) == ["evaluate"]
    assert text.rsplit("\n", 2)[-2].startswith(f"{out}: 2 samples written. Next: ")
    sample = read_sample(next(out.iterdir()))
    assert (sample.images_uint8().shape, sample.record.settings["method"]) == ((2, 3, 12, 16), "Theirs")
    assert main(words) == 0
    assert "2 complete samples skipped" in capsys.readouterr().out


def test_faces_that_do_not_fit_are_a_warning(tmp_path, capsys, rig):
    for name, colour in zip(("up", "left", "front", "right", "back", "down"), FACE_COLOURS, strict=True):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"a_{name}.png")
    assert (
        main(["import", "cubemap", str(tmp_path), "--out", f"{tmp_path}-out", "--rig", str(rig), "--num_workers=0"])
        == 0
    )
    assert "warning: a: up, left, front, right, back, down do not continue their neighbours" in capsys.readouterr().out


def test_what_is_left_out_is_named_and_ends_with_3(tmp_path, capsys, rig):
    root, out = write_equirectangular(tmp_path / "theirs", 2, 0), str(tmp_path / "out")
    Image.new("RGB", (9, 8)).save(root / "logo.png")
    words = ["import", "erp", str(root), "--rig", str(rig), "--num_workers", "0", "--out"]
    assert main([*words, out]) == 3
    text = capsys.readouterr().out
    assert "left out logo.png: " in text
    assert "2 samples written, 1 left out. Next: " in text
    assert main([*words, out, "--ids", r"^(place\d)$"]) == 0
    assert "note: 1 picture not matched by --ids: logo.png" in capsys.readouterr().out
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"id": "place0", "prompt": "a hut"}\n{"id": "place9", "prompt": "a hall"}\n')
    assert main([*words, f"{out}2", "--prompts", str(prompts)]) == 3
    text = capsys.readouterr().out
    assert "left out place1.png: --prompts has no prompt for id 'place1'" in text
    assert "note: 1 prompt without pictures: place9" in text
    assert main([*words, f"{out}3", "--ids", "(logo)"]) == 3
    assert "no sample could be imported, 1 left out" in capsys.readouterr().err


def test_samples_without_pictures_are_named(tmp_path, capsys, rig):
    root, out = write_equirectangular(tmp_path / "theirs", 3, 0), tmp_path / "out"
    words = ["import", "erp", str(root), "--rig", str(rig), "--num_workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert "note: " not in capsys.readouterr().out.replace("note: 3 samples without a prompt", "")
    (root / "place0.png").unlink()
    assert main(words) == 0
    told = "would score (remove what does not belong there, or give another --out): place0\n"
    printed = capsys.readouterr().out
    assert f"note: 1 sample folder in {out} not from these pictures" in printed
    assert told in printed


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (["--out", "theirs/out"], 1, "contain each other"),
        (["--out", "theirs"], 1, "contain each other"),
        (["--out", "out", "--ids", "("], 1, "--ids must be a regular expression"),
        (["--out", "out", "--rig", "none.json"], 1, "--rig must be a JSON file"),
        (["--out", "out", "--num_workers", "-1"], 2, "--num_workers"),
        (["--out", "out", "--method", " "], 2, "--method"),
        (["--out", "out", "--max_pixels", "0"], 1, "max_pixels"),
        ([], 2, "--out must be given"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, words, status, problem):
    monkeypatch.chdir(tmp_path)
    write_equirectangular(tmp_path / "theirs", 1, 0)
    assert status_of(["import", "erp", "theirs", *words]) == status
    assert problem in capsys.readouterr().err


def test_single_cameras(tmp_path, capsys):
    cameras = {"K": [[6, 0, 5.5], [0, 6, 5.5], [0, 0, 1]], "R": np.eye(3).tolist()}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"height": 12, "width": 12, "views": [cameras] * 2}))
    root = tmp_path / "theirs"
    root.mkdir()
    for number, view in enumerate(views(0)[:2]):
        Image.fromarray(view).save(root / f"a_{number}.png")
    words = ["import", "views", str(root), "--out", str(tmp_path / "out"), "--num_workers", "0", "--rig"]
    assert main([*words, str(path)]) == 0
    assert "note: 1 sample without a prompt" in capsys.readouterr().out
    path.write_text(json.dumps({"height": 12, "width": 12, "views": [{"K": 3}]}))
    assert main([*words, str(path)]) == 1
    assert "error: --rig: cameras.views[0].K must be three rows" in capsys.readouterr().err


def imported_by(text, capsys):
    """Type the import that a text names at its end, as it stands; return the words."""
    program, *words = shlex.split(text[text.index("mvdiff import") :].splitlines()[0])
    assert program == "mvdiff"
    capsys.readouterr()
    assert main([*words, "--num_workers", "0"]) == 0, capsys.readouterr().err
    return words


def test_evaluate_names_the_import_of_panoramas_and_still_reads_them(tmp_path, capsys):
    root = write_equirectangular(tmp_path / "their panoramas", 2, 0)
    assert main(["evaluate", "--generated", str(root), "--metrics", "sharpness"]) == 0
    words = imported_by(capsys.readouterr().out, capsys)
    assert words[:3] == ["import", "erp", str(root)]
    assert main(["evaluate", "--generated", words[-1], "--metrics", "overlap_psnr", "--overlap_size", "16"]) == 0


def test_evaluate_names_the_import_of_faces_and_views_in_folders(tmp_path, capsys):
    faces = write_matterport3d(tmp_path / "faces", 1, 0)
    for room in "ab":
        (tmp_path / "views" / room).mkdir(parents=True)
        for number, view in enumerate(views(0)):
            Image.fromarray(view).save(tmp_path / "views" / room / f"{number}.png")
    for kind, root in (("cubemap", faces), ("views", tmp_path / "views")):
        assert main(["evaluate", "--generated", str(root), "--metrics", "sharpness"]) == 1
        assert imported_by(capsys.readouterr().err, capsys)[:3] == ["import", kind, str(root)]


def test_evaluate_says_nothing_of_photos(tmp_path, capsys):
    for number in range(2):
        Image.new("RGB", (8, 8), (9, 9, 99 * number)).save(tmp_path / f"photo_{number}.png")
    assert main(["evaluate", "--generated", str(tmp_path), "--metrics", "sharpness"]) == 0
    assert "mvdiff import" not in capsys.readouterr().out
