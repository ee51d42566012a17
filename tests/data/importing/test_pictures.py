"""Names of pictures: which sample and which part a file is."""

from pathlib import Path

import pytest
from PIL import Image

from mvdiff.data.importing.pictures import WHOLE, find_pictures
from mvdiff.data.importing.suggest import guess_kind, import_command


def write(root, *names, size=(8, 8)):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / name)
    return root


def found(root, kind, ids=None):
    return {one.sample_id: list(one.files) for one in find_pictures(root, kind, ids).samples}


def test_panoramas_are_named_by_their_paths(tmp_path):
    write(tmp_path, "a.png", "scene/b 1.JPG", ".hidden.png")
    assert found(tmp_path, "erp") == {"a": [WHOLE], "scene/b 1": [WHOLE]}


@pytest.mark.parametrize("name", ["{}_{:02d}.png", "{}/{}.png", "{}/view/{}.jpg", "{}-{}.png"])
def test_views_are_ordered_by_their_numbers(tmp_path, name):
    write(tmp_path, *(name.format(room, view) for room in ("room 1", "room 2") for view in (10, 9, 0)))
    ids = ["room 1/view", "room 2/view"] if "view" in name else ["room 1", "room 2"]
    assert found(tmp_path, "views") == {one: ["0", "9", "10"] for one in ids}


def test_an_expression_names_id_and_part(tmp_path):
    write(tmp_path, "run7/gen_0003_yaw090.png", "run7/gen_0003_yaw000.png", "run7/mask.png")
    for ids in (r"gen_(\d+)_yaw(\d+)", r"gen_(?P<id>\d+)_yaw(?P<view>\d+)", r"gen_(?P<id>\d+)_yaw(\d+)"):
        assert found(tmp_path, "views", ids) == {"0003": ["0", "90"]}
    pictures = find_pictures(tmp_path, "views", r"gen_(\d+)_yaw(\d+)")
    assert (pictures.unmatched, pictures.left_out) == (["run7/mask.png"], {})
    assert found(tmp_path, "erp", r"run7/(.*)")["mask"] == [WHOLE]


@pytest.mark.parametrize(
    ("ids", "problem"), [("(", "regular expression"), (r"\d+", "group for the id"), (r"zzz(.)", "none that")]
)
def test_wrong_expressions(tmp_path, ids, problem):
    write(tmp_path, "a.png")
    with pytest.raises(ValueError, match=problem):
        find_pictures(tmp_path, "erp", ids)


def test_pictures_that_belong_nowhere_are_named(tmp_path):
    write(tmp_path, "a.png", "a.jpg", "b_1.png", "c.png")
    (tmp_path / "d.heic").write_bytes(b"")
    erp = find_pictures(tmp_path, "erp")
    assert set(erp.left_out) == {"a.png", "a.jpg", "d.heic"}
    assert "a.jpg and a.png" in erp.left_out["a.png"]
    views = find_pictures(tmp_path, "views")
    assert set(views.left_out) == {"a.png", "a.jpg", "c.png", "d.heic"}
    assert "--ids" in views.left_out["c.png"]


def test_folders_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        find_pictures(tmp_path, "erp")
    with pytest.raises(FileNotFoundError, match="DIR"):
        find_pictures(tmp_path / "none", "erp")


def test_skyboxes_of_matterport3d_have_the_data_modules_ids(tmp_path):
    names = [f"v1/scene/matterport_skybox_images/pano_skybox{face}_sami.jpg" for face in range(6)]
    write(tmp_path, *names)
    for root in (tmp_path, tmp_path / "v1", tmp_path / "v1/scene", (tmp_path / names[0]).parent):
        assert found(root, "cubemap") == {"scene_pano": list("012345")}


def test_faces_by_words_and_letters(tmp_path):
    write(tmp_path, "x_front.png", "x_R.png", "room/posy.png", "y_5.png", "cross.png")
    assert found(tmp_path, "cubemap") == {"x": ["front", "r"], "room": ["posy"], "y": ["5"], "cross": [WHOLE]}


@pytest.mark.parametrize(
    ("kind", "size", "names"),
    [
        ("erp", (16, 8), ["a.png", "b_1.png"]),
        ("cubemap", (48, 8), ["a.png"]),
        ("cubemap", (8, 8), [f"a/{face}.png" for face in ("f", "b", "l", "r", "u", "d")]),
        ("cubemap", (8, 8), [f"s/matterport_skybox_images/p_skybox{face}_sami.jpg" for face in range(6)]),
        ("views", (8, 8), [f"{room}_{view}.png" for room in "ab" for view in range(3)]),
        ("views", (8, 6), [f"a/{view}.png" for view in range(8)]),
        (None, (8, 8), [f"img_{number}.png" for number in range(9)]),
        (None, (8, 8), ["a.png", "b.png"]),
    ],
)
def test_the_kind_is_guessed(tmp_path, kind, size, names):
    assert guess_kind(write(tmp_path, *names, size=size)) == kind


def test_most_pictures_decide(tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png", size=(16, 8))
    write(tmp_path, "thumbnail.png", size=(5, 5))
    assert guess_kind(tmp_path) == "erp"
    write(tmp_path, "d.png", "e.png", size=(5, 5))
    assert guess_kind(tmp_path) is None  # three of six


def test_nothing_is_guessed_without_pictures(tmp_path):
    assert guess_kind(tmp_path) is None
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert guess_kind(tmp_path) is None


def test_samples_go_beside_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    assert import_command(Path(), "views") == "mvdiff import views . --out ../theirs-samples"
