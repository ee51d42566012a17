"""Panoramas of the whole sphere and crops of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.importing.equirectangular import EquirectangularReader, read_sphere
from mvdiff.data.importing.pictures import SamplePictures
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import save_panorama
from tests.files.pictures import gpano, save_with_xmp

RIG = RingRig(num_views=8, height=24, width=24)
H, W = 32, 64
PIXELS = np.random.default_rng(0).integers(1, 256, (H, W, 3), dtype=np.uint8)


def crop(path, top, left, height, width, place=True, scale=1):
    """Save a crop of the sphere as a phone does; `scale`: the metadata are of a finer file."""
    xmp = gpano((W * scale, H * scale), (width * scale, height * scale))
    offsets = f'GPano:CroppedAreaLeftPixels="{left * scale}" GPano:CroppedAreaTopPixels="{top * scale}" '
    xmp = xmp.replace(b"GPano:ProjectionType", offsets.encode() + b"GPano:ProjectionType") if place else xmp
    return save_with_xmp(path, np.ascontiguousarray(PIXELS[top : top + height, left : left + width]), xmp)


def test_a_whole_panorama_is_kept(tmp_path):
    for path in (save_panorama(tmp_path / "a.png", PIXELS), tmp_path / "plain.png"):
        Image.fromarray(PIXELS).save(path)
        pixels, shown = read_sphere(path)
        assert shown is None
        assert np.array_equal(pixels.movedim(0, -1), PIXELS)


@pytest.mark.parametrize(("top", "left", "height", "width"), [(8, 0, 16, 64), (3, 7, 20, 31), (0, 32, 32, 32)])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_crop_lies_where_gpano_says(tmp_path, top, left, height, width, scale):
    pixels, shown = read_sphere(crop(tmp_path / "a.png", top, left, height, width, scale=scale))
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    assert np.array_equal(shown, mask)
    assert np.array_equal(pixels.movedim(0, -1), PIXELS * mask[..., None])


def test_views_of_a_crop_equal_those_of_the_whole_where_it_shows_something(tmp_path):
    reader = EquirectangularReader(tmp_path, RIG)
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    crop(tmp_path / "part.png", 0, 16, 32, 32)  # the front half: yaw from -90 to 90
    whole, part = (reader.read(SamplePictures(name, {"": tmp_path / f"{name}.png"})) for name in ("whole", "part"))
    assert (whole.covered, whole.given) == (None, None)
    assert torch.equal(part.images[part.covered], whole.images[part.covered])
    assert not part.images[~part.covered].any()
    shares = part.covered.double().mean((1, 2)).tolist()
    assert (shares[0], shares[4]) == (1, 0)
    assert 0.3 < shares[2] <= 0.5
    assert shares[1] == pytest.approx(shares[7], abs=0.05)
    assert part.covered[2, 12, :11].all()
    assert not part.covered[2, 12, 13:].any()  # to the right of yaw 90
    assert torch.equal(part.given[..., 3] == 255, part.covered)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_cropped_panoramas_of_this_package(tmp_path, suffix):
    path = save_panorama(tmp_path / f"a.{suffix}", PIXELS[5:25], top=5)
    assert read_sphere(path)[1][:, 0].nonzero().flatten().tolist() == list(range(5, 25))


def test_what_is_no_panorama(tmp_path):
    path = tmp_path / "a.png"
    problems = {
        "twice as wide": lambda: Image.new("RGB", (30, 20)).save(path),
        "where it lies": lambda: crop(path, 8, 0, 16, 64, place=False),
        "a cylindrical panorama": lambda: save_with_xmp(path, PIXELS, gpano((W, H), (W, H), "cylindrical")),
        "sphere twice as wide as high": lambda: save_with_xmp(path, PIXELS, _placed((W, 3 * H), (W, H))),
        "lie on the sphere": lambda: save_with_xmp(path, PIXELS[:16], _placed((W, H), (W, 16), top=20)),
        "at most": lambda: save_with_xmp(path, PIXELS[:2, :4], _placed((10**9, 5 * 10**8), (4, 2))),
    }
    for problem, write in problems.items():
        write()
        with pytest.raises(ValueError, match=problem):
            read_sphere(path)


def _placed(full, part, top=0):
    offsets = f'GPano:CroppedAreaLeftPixels="0" GPano:CroppedAreaTopPixels="{top}" '.encode()
    return gpano(full, part).replace(b"GPano:ProjectionType", offsets + b"GPano:ProjectionType")
