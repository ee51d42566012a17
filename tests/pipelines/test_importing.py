"""Pictures of other methods as sample folders: what is written, skipped, left out; held to the data modules' views."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.importing.pictures import find_pictures
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.importing import import_samples, picture_reader
from mvdiff.pipelines.prompt_files import PromptEntry
from mvdiff.samples import read_sample
from tests.data.folders import truncate, write_equirectangular, write_matterport3d

RIG = RingRig(num_views=8, height=16, width=16)


def bring_in(kind, root, out, rig=RIG, ids=None, cameras=None, **how):
    return import_samples(find_pictures(root, kind, ids), picture_reader(kind, root, rig, cameras), out, **how)


def write_views(root, num=2, num_views=8, size=(16, 16)):
    root.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (num, num_views, *size[::-1], 3), dtype=np.uint8)
    for room, views in enumerate(pixels):
        for number, view in enumerate(views):
            Image.fromarray(view).save(root / f"room{room}_{number}.png")
    return pixels


@pytest.mark.parametrize(
    ("kind", "write", "module", "num_workers"),
    [
        ("erp", write_equirectangular, EquirectangularDataModule, 1),
        ("cubemap", write_matterport3d, Matterport3DDataModule, 0),
    ],
)
def test_imported_truth_equals_the_data_module(tmp_path, kind, write, module, num_workers):
    root = write(tmp_path / "data", num_train=1, num_test=2)
    report = bring_in(kind, root, tmp_path / "out", num_workers=num_workers)
    assert (report.written, report.skipped, report.left_out, report.without_prompt) == (3, 0, {}, [])
    imported = {one.sample_id: one for one in FolderSource(tmp_path / "out")}
    truth = list(DataSource(module(root, rig=RIG, num_val=0)))
    assert len(truth) == 2
    for sample in truth:
        ours = imported[sample.sample_id]
        assert torch.equal(ours.images_uint8, sample.images_uint8)
        assert torch.equal(ours.K, sample.K)
        assert torch.equal(ours.R, sample.R)
        assert ours.prompts == sample.prompts
        assert ours.covered is None


def test_the_panorama_is_kept_and_the_record_tells_where_it_came_from(tmp_path):
    root = write_equirectangular(tmp_path / "data", 1, 0)
    bring_in("erp", root, tmp_path / "out", method="Their Method 2")
    sample = read_sample(tmp_path / "out" / "place0")
    original = np.asarray(Image.open(root / "place0.png"))
    assert np.array_equal(sample.panorama_uint8().movedim(0, -1), original)
    settings = sample.record.settings
    assert (settings["method"], list(settings["imported"])) == ("Their Method 2", ["place0.png"])
    assert str(tmp_path) not in (sample.folder / "sample.json").read_text()


def test_a_rerun_skips_what_is_complete_and_says_what_differs(tmp_path):
    root, out = write_equirectangular(tmp_path / "data", 2, 0), tmp_path / "out"
    bring_in("erp", root, out)
    shutil.rmtree(out / "place1")
    report = bring_in("erp", root, out)
    assert (report.written, report.skipped) == (1, 1)
    others = {
        "rig": {"rig": RingRig(num_views=4, height=16, width=16)},
        "prompts": {"prompts": [PromptEntry("place0", "a hut")]},
        "method": {"method": "other"},
    }
    for name, how in others.items():
        report = bring_in("erp", root, out, **how)
        assert name in report.left_out["place0.png"]
    Image.new("RGB", (8, 4)).save(root / "place0.png")
    assert "other pictures" in bring_in("erp", root, out).left_out["place0.png"]
    assert bring_in("erp", root, out, overwrite=True).written == 2
    assert bring_in("erp", root, out).skipped == 2


def test_views_are_taken_as_they_are(tmp_path):
    pixels = write_views(tmp_path / "theirs", size=(24, 16))
    rig = RingRig(num_views=8, fov_deg=60, height=32, width=48)
    assert bring_in("views", tmp_path / "theirs", tmp_path / "out", rig).written == 2
    for room in range(2):
        sample = read_sample(tmp_path / "out" / f"room{room}")
        assert np.array_equal(sample.images_uint8().movedim(1, -1), pixels[room])
        assert sample.record.rig == rig.resized(16, 24).to_dict()
        assert not (sample.folder / "panorama.png").exists()
    assert bring_in("views", tmp_path / "theirs", tmp_path / "out", rig).skipped == 2


def test_the_cameras_of_views_may_be_single_ones(tmp_path):
    write_views(tmp_path / "theirs", 1, 2)
    views = [{"K": [[9, 0, 7.5], [0, 9, 7.5], [0, 0, 1]], "R": np.eye(3).tolist(), "t": [x, 0, 0]} for x in (0, 1)]
    cameras = {"height": 16, "width": 16, "views": views}
    assert bring_in("views", tmp_path / "theirs", tmp_path / "out", None, cameras=cameras).written == 1
    assert read_sample(tmp_path / "out" / "room0").record.cameras == cameras
    with pytest.raises(ValueError, match="must be a rig"):
        picture_reader("erp", tmp_path, cameras=cameras)


def test_the_ring_of_the_paper_is_the_default_for_views(tmp_path):
    write_views(tmp_path / "theirs", 1)
    bring_in("views", tmp_path / "theirs", tmp_path / "out", rig=None)
    assert read_sample(tmp_path / "out" / "room0").record.rig == RIG.to_dict()


def test_what_cannot_be_imported_is_named_and_the_rest_is(tmp_path):
    root = write_equirectangular(tmp_path / "erp", 4, 0)
    truncate(root / "place0.png")
    Image.new("RGB", (20, 11)).save(root / "place1.png")
    (root / "place2.json").write_text('{"prompts": {"0": ""}}')
    report = bring_in("erp", root, tmp_path / "out")
    assert report.written == 1
    reasons = {"place0.png": "decoded", "place1.png": "twice as wide as high", "place2.png": "prompt"}
    assert {name for name, text in reasons.items() if text in report.left_out[name]} == set(report.left_out)
    assert not any("mvdiff data check" in reason for reason in report.left_out.values())

    write_views(tmp_path / "views", 3)
    (tmp_path / "views" / "room0_7.png").unlink()
    Image.new("RGB", (16, 8)).save(tmp_path / "views" / "room1_3.png")
    report = bring_in("views", tmp_path / "views", tmp_path / "out2")
    assert report.written == 1
    assert "7 (0, 1, 2, 3, 4, 5, 6)" in report.left_out["room0_0.png"]
    assert "one size" in report.left_out["room1_0.png"]
    wide = RingRig(num_views=8, height=16, width=32)
    assert "shape" in bring_in("views", tmp_path / "views", tmp_path / "out3", wide).left_out["room2_0.png"]


def test_samples_whose_pictures_are_gone_stay_and_are_named(tmp_path):
    root, out = write_equirectangular(tmp_path / "erp", 3, 0), tmp_path / "out"
    assert bring_in("erp", root, out).older == []
    (root / "place0.png").unlink()
    truncate(root / "place1.png")
    report = bring_in("erp", root, out)
    assert (report.skipped, list(report.left_out), report.older) == (1, ["place1.png"], ["place0", "place1"])
    assert [one.sample_id for one in FolderSource(out)] == ["place0", "place1", "place2"]


@pytest.mark.parametrize("number", [7, 9])
@pytest.mark.parametrize("first", [0, 1])
def test_a_missing_view_does_not_shift_the_cameras(tmp_path, first, number):
    """Numbers 0 to 6 or 1 to 7 and one more: `number` 7 or 8 leaves no gap, 9 and 10 do."""
    root = tmp_path / "theirs"
    write_views(root, 2)
    for view in reversed(range(8)):
        new = first + (number if view == 7 else view)
        (root / f"room1_{view}.png").rename(root / f"room1_{new}.png")
    report = bring_in("views", root, tmp_path / "out")
    assert report.written == (2 if number == 7 else 1)
    assert list(report.left_out) == ([] if number == 7 else [f"room1_{first}.png"])
    for reason in report.left_out.values():
        assert "views 0 to 7 or 1 to 8" in reason
        assert f"{first + 6}, {first + number})" in reason


def test_prompts_of_a_file_belong_to_ids_and_numbers(tmp_path):
    write_views(tmp_path / "theirs", 3)
    how = {"ids": r"(?P<id>\d+)_(\d+)"}
    prompts = [PromptEntry("0000", "a hall"), PromptEntry("0001", tuple("abcdefgh")), PromptEntry("0007", "unused")]
    report = bring_in("views", tmp_path / "theirs", tmp_path / "out", prompts=prompts, **how)
    assert [read_sample(tmp_path / "out" / name).record.prompts for name in "01"] == [["a hall"] * 8, list("abcdefgh")]
    assert (report.unused_prompts, list(report.left_out)) == (["0007"], ["room2_0.png"])
    with pytest.raises(ValueError, match="--ids"):
        bring_in("views", tmp_path / "theirs", tmp_path / "out2", prompts=[PromptEntry("x", "a")])
    wrong = [PromptEntry("0", ("a", "b"))]
    assert (
        "per view"
        in bring_in("views", tmp_path / "theirs", tmp_path / "o", prompts=wrong, **how).left_out["room0_0.png"]
    )


def test_prompts_beside_pictures(tmp_path):
    write_views(tmp_path / "flat", 2)
    (tmp_path / "flat" / "room0.txt").write_text("a hall\n")
    assert bring_in("views", tmp_path / "flat", tmp_path / "out").without_prompt == ["room1"]
    assert read_sample(tmp_path / "out" / "room0").record.prompts == ["a hall"] * 8
    for number in range(8):
        (tmp_path / "deep" / "hall").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "flat" / f"room0_{number}.png", tmp_path / "deep" / "hall" / f"{number}.png")
    (tmp_path / "deep" / "hall" / "prompt.txt").write_text("\n".join("abcdefgh"))
    bring_in("views", tmp_path / "deep", tmp_path / "out")
    assert read_sample(tmp_path / "out" / "hall").record.prompts == list("abcdefgh")
    (tmp_path / "erp").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (16, 8)).save(tmp_path / "erp" / f"{name}.png")
    (tmp_path / "erp" / "one.txt").write_text("a hut")
    (tmp_path / "erp" / "two.json").write_text(json.dumps({"steps": 50}))  # the method's own notes
    assert bring_in("erp", tmp_path / "erp", tmp_path / "out").without_prompt == ["two"]
    assert read_sample(tmp_path / "out" / "one").record.prompts == ["a hut"] * 8
