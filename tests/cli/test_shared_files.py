"""What people send to each other tells nobody where its maker keeps things; files of earlier versions still open."""

import json
import shutil

import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.mesh.surface import Mesh, write_mesh
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.recipes.outpaint import OutpaintRecipe
from mvdiff.recipes.settings import OutpaintSettings
from tests.data.folders import write_matterport3d
from tests.pipelines.conftest import make_pipeline
from tests.report.folders import write_panorama
from tests.shared_files import telling
from tests.tiny import tiny_base

USER = "annabelle-of-nowhere"
STEPS = {"seed": 1, "num_inference_steps": 1, "output_type": "pt"}


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """Everything that must not be told: the folder that holds all input and its parent, the home, the user's name."""
    home = tmp_path / "people" / USER
    for folder in (home, tmp_path / "work", tmp_path / "in"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", USER)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path, tmp_path.parent, USER


def test_a_model_folder_leads_to_its_base_and_tells_no_path(secrets, tmp_path, monkeypatch):
    pipeline = make_pipeline(tmp_path / "in" / "my base")
    for name in ("first", "second"):
        pipeline.save_pretrained(tmp_path / "out" / name)
        assert not telling(tmp_path / "out" / name, *secrets)
    info = json.loads((tmp_path / "out" / "first" / "mvdiff.json").read_text())
    assert info["base"]["id"] == "../../in/my base"
    assert "../../in/my base" in (tmp_path / "out" / "first" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    loaded = MVDiffusionPanoramaPipeline.from_pretrained("first")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.base.id == pipeline.base.id
    assert torch.equal(loaded("a ball", **STEPS).images, pipeline("a ball", **STEPS).images)
    loaded.save_pretrained(tmp_path / "out" / "deeper" / "third")
    assert MVDiffusionPanoramaPipeline.from_pretrained("deeper/third").base.id == pipeline.base.id
    assert not telling(tmp_path / "out", *secrets)


def test_a_base_in_the_home_folder_is_found_by_its_user(secrets, tmp_path):
    base = tmp_path / "people" / USER / "base"
    make_pipeline(base).save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "mvdiff.json").read_text())["base"]["id"] == "~/base"
    assert MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model").base.id == "~/base"
    assert not telling(tmp_path / "model", *secrets)


def test_a_model_folder_of_an_earlier_version_opens(secrets, tmp_path):
    pipeline = make_pipeline(tmp_path / "in" / "base")
    pipeline.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "mvdiff.json"
    old = json.loads(path.read_text())
    old["base"]["id"] = str(tmp_path / "in" / "base")
    path.write_text(json.dumps(old))
    assert MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model").base == pipeline.base


def test_a_base_tells_not_where_it_was_loaded_from(secrets, tmp_path):
    load_backbone(tiny_base(tmp_path / "in" / "base")).save_pretrained(tmp_path / "out" / "base")
    assert not telling(tmp_path / "out", *secrets)


def test_samples_scores_and_pages(secrets, tmp_path, capsys):
    make_pipeline(tmp_path / "in" / "my base").save_pretrained(tmp_path / "in" / "my model")
    prompts = tmp_path / "in" / "my prompts.json"
    prompts.write_text(json.dumps(["a ball", "a lamp"]))
    root = tmp_path / "out" / "my samples"
    generate = ["generate", "panorama", "--model", str(tmp_path / "in" / "my model"), "--prompts", str(prompts)]
    generate += ["--out", str(root), "--num_inference_steps", "1", "--device", "cpu", "--format", "jpg", "--crop"]
    assert main(generate) == 0
    assert not telling(root, *secrets)
    record = root / "0000" / "sample.json"
    assert json.loads(record.read_text())["settings"]["base"] == "my base"

    old = json.loads(record.read_text())
    old["settings"]["base"] = str(tmp_path / "in" / "my base")  # as earlier versions wrote it
    record.write_text(json.dumps(old))
    capsys.readouterr()
    assert main(generate) == 0
    assert "2 complete panoramas skipped" in capsys.readouterr().out

    shutil.copytree(root / "0001", root / "0002")
    copied = root / "0002" / "sample.json"
    copied.write_text(copied.read_text().replace('"0001"', '"0002"'))
    (root / "0002" / "0.png").write_bytes(b"no picture")
    shutil.copytree(root / "0001", root / "0003")
    (root / "0003" / "sample.json").unlink()
    results = tmp_path / "scores" / "results.json"
    weights = tmp_path / "in" / "no weights.pth"
    weights.write_bytes(b"no weights")
    how = ["--metrics", "overlap_psnr", "inception_score", "--overlap_size", "0", "--inception_weights", str(weights)]
    assert main(["evaluate", "--generated", str(root), "--out", str(results), *how]) == 0
    assert not telling(results, *secrets)
    scored = json.loads(results.read_text())
    assert scored["generated"]["path"] == "../out/my samples"
    assert scored["generated"]["num_unreadable"] == 1
    assert scored["settings"]["inception_weights"] == "no weights.pth"

    page = tmp_path / "page" / "report.html"
    assert main(["report", str(results), "--out", str(page)]) == 3
    text = page.read_text(encoding="utf-8")
    assert "Could not be read" in text
    assert "my samples/0002" in text
    assert not telling(page, *secrets)
    scored["generated"]["path"] = str(root)  # as earlier versions wrote it
    results.write_text(json.dumps(scored))
    assert main(["report", str(results), "--out", str(page)]) == 3
    assert not telling(page, *secrets)


def test_folders_of_one_name_are_told_apart_by_as_little_as_needed(secrets, tmp_path):
    for method in ("x", "y"):
        write_panorama(tmp_path / "in" / method / "out", "a")
    page = tmp_path / "page.html"
    assert main(["report", *(str(tmp_path / "in" / method / "out") for method in "xy"), "--out", str(page)]) == 0
    assert "x/out" in page.read_text()
    assert not telling(page, *secrets)


def test_meshes(secrets, tmp_path):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).numpy()
    mesh = Mesh(corners, torch.tensor([[0, 1, 2]]).numpy(), (corners * 255).astype("uint8"))
    for suffix in (".glb", ".ply"):
        write_mesh(tmp_path / "out" / f"mesh{suffix}", mesh)
    assert not telling(tmp_path / "out", *secrets)


def test_a_quickstart_tells_names_of_what_it_was_given(secrets, tmp_path):
    given = {"base": str(tmp_path / "in" / "base"), "init_adapter": str(tmp_path / "in" / "model")}
    recipe = OutpaintRecipe(OutpaintSettings(out=tmp_path / "out", **given))
    assert recipe.text("{s.base} {s.init_adapter} {s.out}") == "base model out"
    assert str(tmp_path) not in repr(recipe.told)


def test_an_outpainted_picture_is_told_by_its_name(secrets, tmp_path):
    picture = tmp_path / "in" / "photo of mine.jpg"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(picture)
    model = ["generate", "outpaint", "--model", "mvdiff://toy-outpaint", "--image", str(picture), "--prompt", "a room"]
    assert main([*model, "--num_inference_steps", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert '"photo of mine.jpg"' in (tmp_path / "out" / "0000" / "sample.json").read_text()
    assert not telling(tmp_path / "out", *secrets)


def test_shards_tell_no_path(secrets, tmp_path):
    source = write_matterport3d(tmp_path / "in", num_train=2, num_test=1)
    assert main(["data", "shard", str(source), "--out", str(tmp_path / "out")]) == 0
    assert not telling(tmp_path / "out", *secrets)
