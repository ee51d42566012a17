"""Image files in data sets: every reader takes the same files, reads the same pixels and gives the same reasons."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.layouts import open_recording
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.caption import caption_folder
from mvdiff.data.prepare.check import check_folder, check_folders
from mvdiff.data.prepare.split import split_folder
from mvdiff.eval.sources import DataSource
from mvdiff.files.images import read_image_uint8
from mvdiff.geometry.cameras import RingRig
from tests.data.folders import face_path, write_equirectangular, write_matterport3d
from tests.data.other_layouts import write_transforms
from tests.data.scenes import write_scene
from tests.files.pictures import encoded, exif, gpano, png, profile_of, save_with_xmp, stored, swapped_profile

RIG = RingRig(height=8, width=8)
SMOOTH = np.full((64, 128, 3), 30, np.uint8)
SMOOTH[..., 0], SMOOTH[..., 1] = 2 * np.arange(128), 4 * np.arange(64)[:, None]
OPAQUE = np.full((64, 128, 1), 255, np.uint8)


def said(images):
    return ["a room"] * len(images)


def place(root, content: bytes, suffix: str = ".png"):
    """Replace the first panorama of the folder."""
    (root / "place0.png").unlink()
    path = root / f"place0{suffix}"
    path.write_bytes(content)
    return path


SOUND = {
    "as it is": (encoded(Image.fromarray(SMOOTH), "PNG"), ".png", 0),
    "16 bits": (png(SMOOTH.astype(np.uint16) * 257), ".PNG", 1),
    "upside down": (encoded(Image.fromarray(stored(SMOOTH, 3)), "PNG", exif=exif(3)), ".png", 0),
    "on its side": (encoded(Image.fromarray(stored(SMOOTH, 6)), "TIFF", exif=exif(6)), ".TIF", 0),
    "mirrored": (encoded(Image.fromarray(stored(SMOOTH, 2)), "WEBP", exif=exif(2), lossless=True), ".WebP", 0),
    "opaque alpha": (encoded(Image.fromarray(np.concatenate([SMOOTH, OPAQUE], -1)), "TIFF"), ".tiff", 0),
    "JPEG": (encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0), ".JPEG", 3),
    "own colours": (
        encoded(Image.fromarray(SMOOTH[..., [1, 0, 2]]), "PNG", icc_profile=swapped_profile()), ".png", 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOUND)
def test_what_a_camera_or_an_editor_wrote_is_read_upright_and_in_its_colours(tmp_path, kind):
    root = write_equirectangular(tmp_path)
    content, suffix, tolerance = SOUND[kind]
    place(root, content, suffix)
    source = EquirectangularPanoramas(root)
    error = np.abs(source.panorama(0).permute(1, 2, 0).numpy().astype(int) - SMOOTH)
    assert error.max() <= tolerance or (tolerance > 2 and error.mean() < tolerance / 4)
    assert check_folder(root).problems == []


def test_a_profile_that_cannot_be_applied_is_counted(tmp_path):
    root = write_equirectangular(tmp_path / "pano")
    place(root, encoded(Image.fromarray(SMOOTH), "PNG", icc_profile=profile_of(b"CMYK")), ".png")
    scene = write_scene(tmp_path / "scene", 2)
    frame = scene / "color" / "1.png"
    with Image.open(frame) as image:
        frame.write_bytes(encoded(image, "PNG", icc_profile=b"none"))
    for folder in (root, scene):
        report = check_folder(folder)
        assert report.notes["colour profile that cannot be applied, ignored"] == 1
        assert "unusable image" not in report.counts


def transparent() -> np.ndarray:
    alpha = OPAQUE.copy()
    alpha[48:] = 0
    return np.concatenate([SMOOTH, alpha], -1)


def unusable(tmp_path) -> dict[str, tuple[bytes, str, str, str]]:
    """Content, suffix, kind of the problem and reason, by kind of file."""
    crop = save_with_xmp(tmp_path / "crop.jpg", SMOOTH, gpano((256, 128), (128, 64))).read_bytes()
    strip = save_with_xmp(tmp_path / "strip.png", SMOOTH[16:48], gpano((128, 64), (128, 32)), late=True).read_bytes()
    sweep = save_with_xmp(tmp_path / "sweep.tif", SMOOTH, gpano((128, 64), (128, 64), "cylindrical")).read_bytes()
    whole = encoded(Image.fromarray(SMOOTH), "PNG")
    return {
        "transparent": (encoded(Image.fromarray(transparent()), "PNG"), ".png", "unusable", "must be opaque; 25.00%"),
        "crop": (crop, ".jpg", "unusable", "a crop of 180x90 degrees of the sphere"),
        "strip": (strip, ".png", "unusable", "a crop of 360x90 degrees of the sphere"),
        "sweep": (sweep, ".tif", "unusable", "a cylindrical panorama"),
        "animated": (
            encoded(Image.fromarray(SMOOTH), "WEBP", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)]),
            ".webp", "unusable", "it holds 2",
        ),
        "floats": (
            encoded(Image.fromarray(SMOOTH[..., 0].astype(np.float32)), "TIFF"), ".tiff", "unusable", "floating-point",
        ),
        "cut off": (whole[: len(whole) // 2], ".png", "broken", "truncated"),
        "text": (b"hello", ".png", "broken", "it is no image"),
    }  # fmt: skip


KINDS = ["transparent", "crop", "strip", "sweep", "animated", "floats", "cut off", "text"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_not_be_read_is_named_alike_by_every_reader(tmp_path, kind):
    root = write_equirectangular(tmp_path / "root")
    content, suffix, state, reason = unusable(tmp_path)[kind]
    path = place(root, content, suffix)
    [problem] = check_folder(root).problems
    assert (problem.kind, problem.path) == (f"{state} image", path)
    assert reason in problem.details
    with pytest.raises(ValueError, match=r"place0\.\w+ must ") as caught:
        EquirectangularPanoramas(root).panorama(0)
    assert reason in str(caught.value)
    data = EquirectangularDataModule(root, RIG, num_val=0)
    with pytest.raises(ValueError, match=r"place0\.\w+ must "):  # the reference of `evaluate`
        list(DataSource(data, "train"))
    path.with_suffix(".json").unlink()
    report = caption_folder(root, said)
    assert [reason in failure for failure in report.failed] == [True]


def test_a_panorama_of_another_shape_is_named(tmp_path):
    root = write_equirectangular(tmp_path)
    path = place(root, encoded(Image.fromarray(SMOOTH[:40]), "PNG"))
    [problem] = check_folder(root).problems
    assert str(problem) == f"wrong size: {path} (128x40; must be twice as wide as high)"
    with pytest.raises(ValueError, match="must be twice as wide as high; got 128x40"):
        EquirectangularPanoramas(root).panorama(0)
    path.with_suffix(".json").unlink()
    assert "must be twice as wide as high" in caption_folder(root, said).failed[0]


def test_too_many_pixels_are_named_and_the_rest_is_checked(tmp_path, monkeypatch, capsys):
    root = write_equirectangular(tmp_path)
    path = place(root, encoded(Image.fromarray(SMOOTH), "PNG"))
    monkeypatch.setattr("mvdiff.files.images.MAX_PIXELS", 8191)
    assert main(["data", "check", str(root)]) == 1
    printed = capsys.readouterr().out
    assert (
        f"unusable image: {path} (train.txt; must have at most 8191 pixels; it is 128x64. Raise max_pixels" in printed
    )
    assert "6 of 32x16" in printed
    with pytest.raises(ValueError, match="at most 8191 pixels; it is 128x64"):
        EquirectangularDataModule(root, RIG, num_val=0).train_dataset()[0]
    assert main(["data", "check", str(root), "--max_pixels", "8192"]) == 0
    data = EquirectangularDataModule(root, RIG, num_val=0, max_pixels=8192)
    assert data.train_dataset()[0]["images"].shape == (8, 3, 8, 8)
    with pytest.raises(ValueError, match="max_pixels must be at least 1; got 0"):
        EquirectangularDataModule(root, RIG, max_pixels=0)


def test_the_limit_reaches_a_reader_that_is_named(tmp_path, capsys):
    root = write_equirectangular(tmp_path)
    named = ["--data", "mvdiff.data.equirectangular.EquirectangularPanoramas"]
    assert main(["data", "check", str(root), *named]) == 0
    assert main(["data", "check", str(root), *named, "--max_pixels", "511"]) == 1
    assert capsys.readouterr().out.count("must have at most 511 pixels; it is 32x16") == 7


def test_faces_follow_the_same_rules(tmp_path):
    root = write_matterport3d(tmp_path)
    upright = np.asarray(Image.fromarray(SMOOTH).resize((16, 16)))
    turned, too_large, clear = (root / face_path(f"scene{i}", f"pano{i}", 2) for i in range(3))
    Image.fromarray(stored(upright, 8)).save(turned, exif=exif(8), quality=98, subsampling=0)
    assert np.abs(Matterport3DPanoramas(root).faces(0)[2].permute(1, 2, 0).numpy().astype(int) - upright).max() < 12
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(too_large)
    clear.write_bytes(encoded(Image.new("RGBA", (16, 16), (255, 0, 255, 0)), "PNG"))
    [report] = check_folders(root, max_pixels=256)
    assert {(problem.kind, problem.path) for problem in report.problems} == {
        ("unusable face", too_large), ("unusable face", clear),
    }  # fmt: skip
    data = Matterport3DDataModule(root, RIG, num_val=0, max_pixels=256)
    for index, text in ((1, "at most 256 pixels; it is 20x20"), (2, "must be opaque; 100.00%")):
        with pytest.raises(ValueError, match=text):
            data.train_dataset()[index]


@pytest.mark.parametrize("layout", ["scannet", "transforms.json"])
def test_colour_of_recordings_stays_as_its_depth_is_stored(tmp_path, layout):
    """A phone held upright writes both sensors' pixels sideways and an orientation into the colour's EXIF."""
    scene = write_scene(tmp_path / "scene", 4)
    for number in range(4):
        path = scene / "color" / f"{number}.png"
        Image.fromarray(np.asarray(Image.open(path))).save(path, exif=exif(6))
    expected = np.array(Image.open(scene / "color" / "1.png"))
    assert read_image_uint8(scene / "color" / "1.png").shape == (3, 40, 30)  # a photo would be turned
    if layout == "transforms.json":
        scene = write_transforms(scene, tmp_path / "other")
        content = json.loads((scene / "transforms.json").read_text())
        del content["w"], content["h"]
        (scene / "transforms.json").write_text(json.dumps(content))
    recording = open_recording(scene)
    assert np.array_equal(recording.load_image(1).permute(1, 2, 0), expected)
    if layout == "transforms.json":  # cx is 16 of 40 columns of colour, measured from the corner
        assert recording.intrinsics(24, 32, 1)[0, 2] == pytest.approx(16 * 32 / 40 - 0.5)
    assert not [problem for problem in check_folder(scene).problems if "wrong size" in problem.kind]


def test_images_that_are_not_read_are_counted(tmp_path, capsys):
    root = write_equirectangular(tmp_path)
    shutil.move(root / "place0.png", root / "place0.hdr")
    (root / "place1.exr").write_bytes(b"beside place1.png, which is read")
    (root / "._place2.hdr").write_bytes(b"macOS")
    Image.fromarray(SMOOTH).save(root / "extra.HDR", "PNG")
    problems = [str(problem) for problem in check_folder(root).problems]
    for name in ("place0.hdr", "extra.HDR"):
        assert any(f"unread image: {root / name} (" in problem for problem in problems)
    assert len([problem for problem in problems if "unread" in problem]) == 2
    with pytest.raises(FileNotFoundError, match=r"place0\.hdr: \.hdr is not read; convert it to one of \.jpg, "):
        EquirectangularPanoramas(root)
    assert len(EquirectangularPanoramas(root, on_broken="skip")) == 4
    assert main(["data", "split", str(root), "--overwrite"]) == 0
    assert f"left out: {root / 'place0.hdr'}: .hdr is not read" in capsys.readouterr().out
    assert any("extra.HDR: .HDR is not read" in failure for failure in caption_folder(root, said).failed)


def test_a_folder_of_unread_images_alone(tmp_path, capsys):
    (tmp_path / "a.exr").write_bytes(b"")
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "unread image: " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"DIR must hold images that are read; got .*a\.exr: \.exr is not read"):
        split_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["frame-000150.color.png", "frame-000150.depth.png", "frame-000150.pose.txt"],
        ["frame-000150.color.jpg"],
        ["000150_rgb.png", "000150_depth.png"],
    ],
)
def test_frames_of_a_recording_are_not_taken_for_panoramas(tmp_path, names, capsys):
    for name in names:
        (tmp_path / name).write_bytes(encoded(Image.fromarray(SMOOTH), "PNG"))
    for command in ("check", "split"):
        assert main(["data", command, str(tmp_path)]) == 1
        assert f"must hold panoramas; got {names[0].split('.')[0]}" in capsys.readouterr().err.replace("_depth", "_rgb")
    (tmp_path / "train.txt").write_text(names[0].rsplit(".", 1)[0] + "\n")
    with pytest.raises(ValueError, match="a frame of an RGB-D recording"):
        EquirectangularPanoramas(tmp_path)


def test_panoramas_may_be_called_after_colours(tmp_path):
    root = write_equirectangular(tmp_path)
    for name in ("hall_rgb", "room.2024", "no-color"):
        Image.fromarray(SMOOTH).save(root / f"{name}.png")
        shutil.copyfile(root / "place0.json", root / f"{name}.json")
    assert check_folder(root).problems == []
