"""Panoramas as photo spheres: what their XMP says is where the pixels are, seen by a reader that knows GPano alone."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry import Rig, RingRig, covered_rows, perspective_from_equirectangular, stitch
from mvdiff.report.panorama_files import write_panorama_pictures
from mvdiff.samples import SampleRecord, read_sample, save_panorama, write_sample
from mvdiff.settings import PanoramaPictures

TURNED = Rig([(40.0 + yaw, 0.0, 90.0) for yaw in range(0, 360, 45)], height=64, width=96)


def smooth_views(rig: Rig) -> np.ndarray:
    """Cut views of a smooth panorama, whose three channels tell where they look: uint8 [V, H, W, 3]."""
    yaw = torch.linspace(-math.pi, math.pi, 513)[:-1] + math.pi / 512
    pitch = torch.linspace(1, -1, 257)[:-1, None] - 1 / 256
    channels = [yaw.sin() * 90 + 128 + 0 * pitch, (2 * yaw).cos() * 60 + 40 * pitch + 128, 100 * pitch + 128 + 0 * yaw]
    views = perspective_from_equirectangular(torch.stack(channels), *rig.cameras(), rig.height, rig.width)
    return views.movedim(1, -1).round().clamp(0, 255).to(torch.uint8).numpy()


def gpano(path) -> dict[str, str]:
    """Read the GPano properties of a file as viewers do: by text, whatever the format."""
    return dict(re.findall(r'GPano:(\w+)="([^"]*)"', path.read_bytes().decode("latin-1")))


def look(path, fov_deg: float, height: int, width: int) -> np.ndarray:
    """Render the initial view of a photo sphere from what GPano defines, with nearest pixels: [H, W, 3]."""
    tags = gpano(path)
    assert (tags["ProjectionType"], tags["UsePanoramaViewer"]) == ("equirectangular", "True")
    full = [int(tags[f"FullPano{side}Pixels"]) for side in ("Height", "Width")]
    crop = [int(tags[f"CroppedAreaImage{side}Pixels"]) for side in ("Height", "Width")]
    top, left = int(tags["CroppedAreaTopPixels"]), int(tags["CroppedAreaLeftPixels"])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[:2] == tuple(crop)
    sphere = np.zeros((*full, 3), np.uint8)
    sphere[top : top + crop[0], left : left + crop[1]] = pixels
    heading = math.radians(float(tags["InitialViewHeadingDegrees"]) - float(tags.get("PoseHeadingDegrees", 0)))
    assert float(tags["InitialViewPitchDegrees"]) == 0
    right = (np.arange(width) + 0.5) / (width / 2) - 1
    down = ((np.arange(height) + 0.5) / (height / 2) - 1)[:, None] * height / width
    tangent = math.tan(math.radians(fov_deg / 2))
    longitude = heading + np.arctan(right * tangent) + 0 * down
    latitude = -np.arctan2(down * tangent, np.hypot(1, right * tangent))
    columns = np.floor((longitude / (2 * math.pi) + 0.5) * full[1]).astype(int) % full[1]
    rows = np.floor((0.5 - latitude / math.pi) * full[0]).astype(int)
    return sphere[rows, columns].astype(float)


@pytest.mark.parametrize("rig", [RingRig(height=64, width=96), TURNED], ids=["ring", "turned"])
def test_every_file_shows_view_0_where_gpano_says(tmp_path, rig):
    views = smooth_views(rig)
    panorama, _ = stitch(torch.from_numpy(views).movedim(-1, 1), *rig.cameras(), 256, 512)
    panorama = panorama.round().to(torch.uint8).movedim(0, -1)
    record = SampleRecord("room", ["a room"] * 8, rig=rig.to_dict())
    sample = read_sample(write_sample(tmp_path / "room", record, views, panorama))
    paths = [sample.folder / "panorama.png"]
    for kind in ("png", "jpg", "webp"):
        paths += write_panorama_pictures(sample, PanoramaPictures(format=kind, crop=True))
    assert sorted(path.name for path in paths) == [
        *("panorama.jpg", "panorama.png", "panorama.webp"),
        *("panorama_cropped.jpg", "panorama_cropped.png", "panorama_cropped.webp"),
    ]
    assert np.array_equal(np.asarray(Image.open(paths[0])), panorama.numpy())
    for path in paths:
        assert gpano(path)["FullPanoHeightPixels"] == "256"
        error = np.abs(look(path, 90.0, 64, 96) - views[0])
        assert error[8:-8].mean() < 3, path.name  # half a pixel of the panorama, and what jpg and webp lose
        assert np.abs(look(path, 90.0, 64, 96) - views[1])[8:-8].mean() > 20


def test_the_cropped_panorama_is_what_views_show_all_around(tmp_path):
    rig = RingRig(height=64, width=64)
    record = SampleRecord("room", ["a room"] * 8, rig=rig.to_dict())
    sample = read_sample(write_sample(tmp_path / "room", record, np.full((8, 64, 64, 3), 255, np.uint8)))
    [path] = write_panorama_pictures(sample, PanoramaPictures(crop=True))
    pixels, tags = np.asarray(Image.open(path)), gpano(path)
    assert (pixels == 255).all()  # neither mid-grey nor black
    # Lowest reach between two views, own derivation: tan = cos(22.5 deg), so 42.7 degrees; rows of 180/101 degrees.
    assert len(pixels) == int(tags["CroppedAreaImageHeightPixels"]) == pytest.approx(2 * 42.7 / (180 / 101), abs=2)
    assert int(tags["CroppedAreaTopPixels"]) * 2 + len(pixels) == pytest.approx(101, abs=1)


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "webp"])
def test_golden_rows_that_are_missing_are_told(tmp_path, suffix):
    panorama = np.full((6, 20, 3), 90, np.uint8)
    given = save_panorama(tmp_path / f"given.{suffix}", Image.fromarray(panorama), top=3, view=(-30.0, 10.0))
    assert gpano(given) == {
        "UsePanoramaViewer": "True",
        "ProjectionType": "equirectangular",
        "FullPanoWidthPixels": "20",
        "FullPanoHeightPixels": "10",
        "CroppedAreaImageWidthPixels": "20",
        "CroppedAreaImageHeightPixels": "6",
        "CroppedAreaLeftPixels": "0",
        "CroppedAreaTopPixels": "3",
        "InitialViewHeadingDegrees": "330.0",
        "InitialViewPitchDegrees": "10.0",
    }
    middle = save_panorama(tmp_path / f"middle.{suffix}", torch.from_numpy(panorama))
    assert gpano(middle)["CroppedAreaTopPixels"] == "2"
    with Image.open(middle) as image:
        assert abs(np.asarray(image.convert("RGB")).astype(int) - 90).max() <= 2


@pytest.mark.parametrize(
    ("name", "panorama", "top", "text"),
    [
        ("a.gif", np.zeros((4, 8, 3), np.uint8), None, r"suffix .*\.webp.*'\.gif'"),
        ("a.png", np.zeros((5, 8, 3), np.uint8), None, "panorama .* 8 x 5"),
        ("a.png", np.zeros((6, 13, 3), np.uint8), None, "panorama .* even .* 13 x 6"),  # a sphere of 13 x 6 is none
        ("a.png", np.zeros((3, 8, 3), np.uint8), 2, "panorama .* 8 x 3 .* row 2"),
        ("a.png", np.zeros((4, 8, 3)), None, r"panorama must be uint8 .* float64 \[4, 8, 3\]"),
        ("a.png", np.zeros((4, 8, 4), np.uint8), None, r"panorama .* uint8 \[4, 8, 4\]"),
    ],
)
def test_errors(tmp_path, name, panorama, top, text):
    with pytest.raises(ValueError, match=text):
        save_panorama(tmp_path / name, panorama, top)
    assert not list(tmp_path.iterdir())


def test_rows_without_a_full_turn_are_an_error():
    with pytest.raises(ValueError, match="covered must have a row"):
        covered_rows(torch.tensor([[True, False], [False, True]]))


def test_pictures_are_made_anew_and_go_with_their_sample(tmp_path):
    rig = RingRig(height=16, width=16)
    record = SampleRecord("room", ["a room"] * 8, rig=rig.to_dict())
    grey = np.full((8, 16, 16, 3), 50, np.uint8)
    folder = write_sample(tmp_path / "room", record, grey)
    everything = PanoramaPictures(format="jpg", crop=True, cube_faces=True)
    written = write_panorama_pictures(read_sample(folder), everything)
    names = [f"cube/{name}.jpg" for name in ("front", "right", "back", "left", "up", "down")]
    assert [path.relative_to(folder).as_posix() for path in written] == [
        *("panorama.jpg", "panorama_cropped.jpg"),
        *names,
    ]
    assert write_panorama_pictures(read_sample(folder), everything) == written
    write_sample(folder, record, grey, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [*(f"{i}.png" for i in range(8)), "sample.json"]
