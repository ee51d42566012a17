"""Cases of image files: 01, 02, 03, 04, 10, 12 and 69."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.files.images import read_image_uint8
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.given import given_images
from mvdiff.samples import SampleRecord, write_sample

RIG = RingRig(height=16, width=16)


def check(root, capsys, *options) -> tuple[int, str]:
    status = main(["data", "check", str(root), *options])
    return status, capsys.readouterr().out.replace(f"{root}/", "").replace(str(root), "data")


def problem(printed: str, name: str) -> str:
    return next(line for line in printed.splitlines() if name in line)


def odd(root, name: str = "odd"):
    """Open the data set with one of its panoramas as the training list."""
    (root / "train.txt").write_text(f"{name}\n")
    return EquirectangularPanoramas(root)


def scored(root):
    return next(iter(DataSource(EquirectangularDataModule(root, RIG, num_val=0), "train"))).images_uint8


def sample_of(folder, path):
    """Copy an image file into a sample folder, as a user does to score it."""
    with Image.open(path) as image:
        rig = RingRig(num_views=1, height=image.height, width=image.width)
    pixels = np.zeros((1, rig.height, rig.width, 3), np.uint8)
    write_sample(folder / "a", SampleRecord("a", ["a room"], rig=rig.to_dict()), pixels)
    (folder / "a" / "0.png").write_bytes(path.read_bytes())
    return FolderSource(folder)


def test_01_grey_of_16_bits(case, shows, capsys, tmp_path):
    root = case(1) / "data"
    status, printed = check(root, capsys)
    assert (status, "no problems" in printed) == (0, True)
    expected = np.round(np.asarray(Image.open(root / "odd.png")) / 257)
    assert expected.std() > 20
    assert np.array_equal(odd(root).panorama(0)[0], expected)
    assert 60 < scored(root).float().mean() < 250
    assert np.array_equal(next(iter(sample_of(tmp_path / "out", root / "odd.png"))).images_uint8[0, 0], expected)
    low, high = expected.min(), expected.max()
    shows(1, "`data check`, dataset, `evaluate`", f"{printed.splitlines()[-2]}; read as {low:.0f} to {high:.0f}")


def test_02_exif_orientation(case, shows, capsys):
    root = case(2) / "data"
    status, printed = check(root, capsys)
    assert (status, "no problems" in printed) == (0, True)
    assert "3 of 128x64" in printed
    for name in ("odd", "portrait"):
        panorama = odd(root, name).panorama(0).permute(1, 2, 0).numpy()
        with Image.open(root / f"{name}.jpg") as image:
            assert np.array_equal(panorama, np.asarray(ImageOps.exif_transpose(image)))
            assert np.array_equal(
                read_image_uint8(root / f"{name}.jpg", oriented=False).permute(1, 2, 0), np.asarray(image)
            )
    shows(2, "`data check`, dataset", printed.splitlines()[0] + "; upright; colour of recordings as stored")


def test_03_transparent_parts(case, shows, capsys, tmp_path):
    root = case(3) / "data"
    status, printed = check(root, capsys)
    assert (status, "1 of 128x64" in printed) == (1, True)
    line = problem(printed, "odd.png")
    assert "unusable image" in line
    assert "25.00% of its pixels are transparent" in line
    with pytest.raises(ValueError, match=r"odd\.png must be opaque; 25.00%"):
        odd(root).panorama(0)
    source = sample_of(tmp_path / "out", root / "odd.png")
    assert not list(source)
    assert "must be opaque; 25.00%" in source.describe()["unreadable"][0]["reason"]
    shows(3, "`data check`, dataset, `evaluate`", line)


def test_04_gpano_crop(case, shows, capsys):
    root = case(4) / "data"
    status, printed = check(root, capsys)
    assert (status, "2 x unusable image" in printed) == (1, True)
    for name, crop in (("half", "180x90"), ("strip", "360x90")):
        assert f"a crop of {crop} degrees of the sphere" in problem(printed, f"{name}.jpg")
        with pytest.raises(ValueError, match=rf"{name}\.jpg must show the whole sphere; .*{crop} degrees"):
            odd(root, name).panorama(0)
    shows(4, "`data check`, dataset", problem(printed, "half.jpg"))


def test_10_tiff_and_hdr(case, shows, capsys):
    root = case(10) / "data"
    status, printed = check(root, capsys)
    assert (status, "2 of 128x64" in printed) == (1, True)
    line = problem(printed, "c.hdr")
    assert "unread image" in line
    assert ".hdr is not read; convert it to one of .jpg" in line
    assert main(["data", "split", str(root)]) == 0
    assert "c.hdr: .hdr is not read" in capsys.readouterr().out
    assert len(EquirectangularPanoramas(root)) + len(EquirectangularPanoramas(root, "test")) == 2
    assert EquirectangularPanoramas(root).panorama(0).float().std() > 10
    shows(10, "`data check`, `data split`", f"{line}; {problem(printed, 'of 128x64')}")


def test_12_huge(case, shows, capsys, recwarn):
    root = case(12) / "data"
    (root / "big16k.png").unlink()  # 134 megapixels, which are read, in 3 s
    (root / "test.txt").write_text("a\n")
    (root / "train.txt").write_text("huge\n")
    status, printed = check(root, capsys)
    assert (status, "1 of 128x64" in printed) == (1, True)
    line = problem(printed, "huge.png")
    assert "must have at most 178956970 pixels; it is 20992x10496. Raise max_pixels" in line
    with pytest.raises(ValueError, match=r"huge\.png must have at most 178956970 pixels"):
        EquirectangularDataModule(root, RIG, num_val=0).train_dataset()[0]
    assert not [warning for warning in recwarn if "Decompression" in str(warning.category)]
    shows(12, "`data check`, dataset", line)


def test_69_phone_portrait(case, shows):
    path = case(69) / "photo.jpg"
    [image] = given_images(path)
    assert image.pixels.shape == (3, 64, 48)
    assert image.fov_deg == pytest.approx(54.88, abs=0.01)
    noted = image.describe()
    assert noted["fov_from"] == "EXIF focal length of 26 mm (35 mm film)"
    assert given_images(path, 65.0)[0].fov_deg == 65
    shows(69, "`generate outpaint` without --fov", json.dumps(noted))
