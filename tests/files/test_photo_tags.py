"""Metadata of photos and panoramas about the camera: EXIF and GPano."""

import time

import numpy as np
import pytest
from PIL import Image

from mvdiff.files.images import decode_image
from mvdiff.files.photo_tags import read_photo_tags
from mvdiff.samples import save_panorama
from tests.files.pictures import encoded, exif, gpano, save_with_xmp, shape


def tags(path):
    return decode_image(path, "image").tags


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("elements", [False, True])
def test_a_crop_is_found_in_every_format(tmp_path, suffix, elements):
    xmp = gpano((256, 128), (128, 64), elements=elements)
    path = save_with_xmp(tmp_path / f"a.{suffix}", shape(64, 128), xmp)
    sphere = tags(path).sphere
    assert (sphere.width_deg, sphere.height_deg, sphere.is_whole) == (180, 90, False)
    assert str(sphere) == "a crop of 180x90 degrees of the sphere"


def test_the_place_of_a_crop_is_in_degrees_if_it_is_stated(tmp_path):
    sphere = tags(save_panorama(tmp_path / "a.png", np.zeros((16, 128, 3), np.uint8), top=32)).sphere
    assert (sphere.left_deg, sphere.top_deg, sphere.height_deg) == (0, 90, 45)
    offsets = [(b"-1", None), (b"64", None), (b"x", None), (b"48", 135.0)]
    for text, top_deg in offsets:
        xmp = gpano((128, 64), (128, 16)).replace(b"GPano:Proj", b'GPano:CroppedAreaTopPixels="%b" GPano:Proj' % text)
        sphere = tags(save_with_xmp(tmp_path / "a.png", shape(16, 128), xmp)).sphere
        assert (sphere.left_deg, sphere.top_deg) == (None, top_deg)


def test_a_packet_behind_the_pixels_is_found(tmp_path):
    path = save_with_xmp(tmp_path / "a.png", shape(32, 128), gpano((128, 64), (128, 32)), late=True)
    assert (tags(path).sphere.width_deg, tags(path).sphere.height_deg) == (360, 90)


@pytest.mark.parametrize(
    ("xmp", "is_whole", "text"),
    [
        (gpano((128, 64), (128, 64)), True, "an equirectangular panorama of the whole sphere"),
        (gpano((8192, 4096), (8192, 4096)), True, "an equirectangular panorama of the whole sphere"),  # resized since
        (gpano((8192, 4096), (8190, 4094)), True, "an equirectangular panorama of the whole sphere"),
        (gpano((128, 64), (128, 64), "cylindrical"), False, "a cylindrical panorama"),
        (gpano((0, 0), (128, 64)), True, "an equirectangular panorama of the whole sphere"),
        (b'<x GPano:ProjectionType="equirectangular"/>', True, "an equirectangular panorama of the whole sphere"),
        (b'<x GPano:ProjectionType="equirectangular" GPano:FullPanoWidthPixels="x\xff"/>', True, "an equirectangular"),
    ],
)
def test_whole_spheres_and_other_projections(tmp_path, xmp, is_whole, text):
    sphere = tags(save_with_xmp(tmp_path / "a.jpg", shape(64, 128), xmp)).sphere
    assert sphere.is_whole == is_whole
    assert str(sphere).startswith(text)


@pytest.mark.parametrize("xmp", [b"", b"<x:xmpmeta/>", b"GPano", b'<x GPano:CaptureSoftware="y"/>'])
def test_a_photo_is_no_sphere(tmp_path, xmp):
    assert tags(save_with_xmp(tmp_path / "a.jpg", shape(), xmp)).sphere is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_panoramas_of_this_package(tmp_path, suffix):
    whole = save_panorama(tmp_path / f"whole.{suffix}", np.zeros((64, 128, 3), np.uint8))
    assert tags(whole).sphere.is_whole
    ring = save_panorama(tmp_path / f"ring.{suffix}", np.zeros((32, 128, 3), np.uint8), top=10)
    assert (tags(ring).sphere.width_deg, tags(ring).sphere.height_deg) == (360, 90)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])  # Pillow writes no focal length to TIFF
@pytest.mark.parametrize("orientation", [1, 6])
def test_golden_field_of_view(tmp_path, form, orientation):
    """26 mm: 69 degrees across the long side, 55 across the short one of 4:3; 2 atan(18 / 26), 2 atan(13.5 / 26)."""
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(shape(48, 64)), form, exif=exif(orientation, 26)))
    image = decode_image(path, "a")
    assert image.rgb.size == ((64, 48) if orientation == 1 else (48, 64))
    expected = 69.390 if orientation == 1 else 54.879
    assert image.tags.fov_deg(*image.rgb.size) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("focal", [None, 0])
def test_an_unknown_focal_length(tmp_path, focal):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(shape()), "JPEG", exif=exif(1, focal)))
    assert tags(path).fov_deg(40, 24) is None


def spaced(before: str, length: int) -> Image.Image:
    image = Image.new("RGB", (8, 4))
    image.info["xmp"] = before.encode() + b" " * length
    return image


@pytest.mark.parametrize("before", ["<GPano:ProjectionType>", "GPano:ProjectionType", "GPano:ProjectionType="])
def test_a_packet_of_spaces_is_read_at_once(before):
    for length in (1 << 13, 1 << 16):  # in quadratic time the first takes 9 seconds, the second 64 times as long
        start = time.process_time()
        assert read_photo_tags(spaced(before, length)).sphere is None
        assert time.process_time() - start < 2


def test_spaces_around_values_do_not_count(tmp_path):
    xmp = gpano((256, 128), (128, 64), elements=True).replace(b">", b"> \n ").replace(b"</", b" \n </")
    sphere = tags(save_with_xmp(tmp_path / "a.jpg", shape(64, 128), xmp)).sphere
    assert (sphere.projection, sphere.width_deg) == ("equirectangular", 180)
