"""Given pictures: files and arrays of every kind, their angles, and what a rig's views show of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.pipelines.given import GivenImage, given_images, given_views
from tests.files.pictures import exif, gpano, png, save_with_xmp, swapped_profile

RIG = RingRig(num_views=8, height=16, width=16)
RED = (200, 30, 40)


def only(picture, **angles) -> GivenImage:
    [image] = given_images(picture, **angles)
    return image


def level(value: int) -> float:
    return value / 127.5 - 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (6, 4), RED).save(path)
    image = only(path, fov_deg=60)
    assert image.pixels.shape == (3, 4, 6)
    torch.testing.assert_close(image.pixels.mean(dim=(1, 2)), torch.tensor([level(c) for c in RED]), atol=0.05, rtol=0)
    assert (image.fov_deg, image.yaw_deg, image.pitch_deg, image.name) == (60.0, 0.0, 0.0, str(path))
    assert torch.equal(only(str(path)).pixels, image.pixels)


def test_grey_sixteen_bits_palette_and_cmyk():
    grey = only(Image.new("L", (2, 2), 100)).pixels
    assert grey.unique().tolist() == pytest.approx([level(100)])
    deep = only(Image.fromarray(np.full((2, 2), 100 * 257, np.uint16))).pixels
    torch.testing.assert_close(deep, grey)
    palette = only(Image.new("RGB", (2, 2), RED).convert("P", palette=Image.Palette.ADAPTIVE)).pixels
    cmyk = only(Image.new("CMYK", (2, 2), (55, 225, 215, 0))).pixels
    for pixels in (palette, cmyk):
        torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([level(c) for c in RED]), atol=0.03, rtol=0)


def test_transparency_is_cut_out():
    rgba = Image.new("RGBA", (4, 2), (*RED, 255))
    assert only(rgba, fov_deg=90).shown is None
    rgba.putpixel((0, 0), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (*RED, 127))
    assert only(rgba, fov_deg=90).shown[0].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    views = given_views([only(rgba, fov_deg=90)], Rig([(0, 0, 90)], height=2, width=4))
    assert views.known[0, 0].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_a_picture_that_is_transparent_everywhere_is_refused(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (4, 2), (*RED, 127)).save(path)
    with pytest.raises(
        ValueError, match=r"image must have opaque pixels; got .*clear\.png, which is transparent everywhere"
    ):
        given_images([Image.new("RGB", (2, 2)), path], fov_deg=90)


def test_rotation_noted_in_the_file_is_applied(tmp_path):
    """Orientation 6: the camera was turned, the first stored row is the right edge."""
    image = Image.new("RGB", (4, 2), (0, 0, 0))
    for x in range(4):
        image.putpixel((x, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    pixels = only(tmp_path / "a.png").pixels
    assert pixels.shape == (3, 4, 2)
    assert pixels[0].tolist() == [[-1.0, 1.0]] * 4


def test_arrays_and_tensors():
    array = np.zeros((4, 6, 3), np.uint8)
    array[..., 0] = 255
    expected = only(Image.fromarray(array)).pixels
    assert torch.equal(only(array).pixels, expected)
    assert torch.equal(only(expected).pixels, expected)
    assert only(array[..., 0]).pixels.shape == only(array[..., :1]).pixels.shape == (3, 4, 6)
    for wrong, text in (
        (np.zeros((4, 6, 2), np.uint8), r"uint8 array \[h, w\], .*; got uint8 \[4, 6, 2\], of image 0"),
        (np.zeros((4, 6, 3), np.float32), "got float32"),
        (torch.zeros(4, 6, 6), r"float tensor \[3, h, w\] in \[-1, 1\]; got torch.float32 \[4, 6, 6\]"),
        (torch.zeros(3, 0, 5), r"float tensor .*; got torch.float32 \[3, 0, 5\]"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 array .*; got uint8 \[0, 5, 3\]"),
        (torch.full((3, 2, 2), 255.0), r"image must lie in \[-1, 1\]; got \[255, 255\]"),
    ):
        with pytest.raises(ValueError, match=text):
            given_images(wrong)


def test_what_is_no_image_says_so(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"image must be a complete picture file; .*a.png cannot be decoded \(.+\)"):
        given_images(tmp_path / "a.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "b.png")
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"complete picture file; .*b.png cannot be decoded \(.+\)"):
        given_images(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"image must be a file; got .*c.png, which does not exist"):
        given_images(tmp_path / "c.png")
    with pytest.raises(ValueError, match="floating-point pixels"):
        given_images(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match=r"image 0 must have 8 or 16 bits .* 32-bit pixels"):
        given_images(Image.fromarray(np.full((2, 2), 200, np.int32)))
    with pytest.raises(ValueError, match=r"complete picture file; image 0 cannot be decoded \(.+\)"):
        given_images(Image.open(tmp_path / "b.png"))
    with pytest.raises(FileNotFoundError, match="which is a folder"):
        given_images(tmp_path)
    with pytest.raises(ValueError, match=r"image must be a file, a PIL image, .*; got bytes, of image 0"):
        given_images(b"no")


@pytest.mark.parametrize(
    ("angles", "text"),
    [
        ({"fov_deg": 0}, "fov_deg must lie between 0 and 180 degrees; got 0, of image 0."),
        ({"fov_deg": 180}, "fov_deg must lie between 0 and 180 degrees; got 180"),
        ({"fov_deg": float("nan")}, "fov_deg must lie between 0 and 180 degrees; got nan"),
        ({"pitch_deg": 91}, "pitch_deg must lie between -90 and 90 degrees; got 91"),
        ({"yaw_deg": 1000}, "yaw_deg must lie between -360 and 360"),
        ({"yaw_deg": None}, "yaw_deg must be a number of degrees, or one for each picture; got None"),
        ({"yaw_deg": [1, 2]}, r"yaw_deg must be one number for all pictures or one for each \(1\); got 2"),
    ],
)
def test_angles_are_checked(angles, text):
    with pytest.raises(ValueError, match=text):
        given_images(Image.new("RGB", (2, 2)), **angles)


def test_several_pictures_and_one_that_reaches_nothing():
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    views = given_views(given_images(pictures, fov_deg=[90, 120], yaw_deg=0), RIG)
    assert views.images[0].unique().tolist() == [1.0]  # the first counts
    assert views.images[1][:, views.known[1, 0] > 0].round(decimals=4).unique().tolist() == [-1.0, 1.0]
    assert [picture["fov_deg"] for picture in views.pictures] == [90.0, 120.0]
    with pytest.raises(ValueError, match="image must be visible in a view of the rig; got image 1 with fov 20, yaw 0"):
        given_views(given_images(pictures, fov_deg=[90, 20], pitch_deg=[0, 80]), RIG)
    with pytest.raises(ValueError, match="image must be at least one picture; got none"):
        given_views([], RIG)


def photo(path, size=(64, 48), orientation=1, focal_35mm=None, **options):
    Image.effect_noise(size, 80).convert("RGB").save(path, exif=exif(orientation, focal_35mm), **options)
    return path


@pytest.mark.parametrize(("orientation", "size", "fov"), [(1, (64, 48), 69.39), (6, (48, 64), 54.88)])
@pytest.mark.parametrize("opened", [False, True])
def test_the_field_of_view_across_the_upright_width_comes_from_the_focal_length(
    tmp_path, orientation, size, fov, opened
):
    path = photo(tmp_path / "a.jpg", orientation=orientation, focal_35mm=26)
    image = only(Image.open(path) if opened else path)
    assert image.pixels.shape == (3, size[1], size[0])
    assert image.fov_deg == pytest.approx(fov, abs=0.01)
    assert image.describe()["fov_from"] == "EXIF focal length of 26 mm (35 mm film)"
    assert only(path, fov_deg=65).describe() == {
        "name": "a.jpg", "width": size[0], "height": size[1], "fov_deg": 65.0, "yaw_deg": 0.0, "pitch_deg": 0.0,
    }  # fmt: skip


def test_pictures_may_have_a_field_of_view_each(tmp_path):
    phone, plain = photo(tmp_path / "a.jpg", focal_35mm=26), photo(tmp_path / "b.jpg")
    images = given_images([phone, plain, np.zeros((3, 4, 3), np.uint8)])
    assert [round(image.fov_deg, 2) for image in images] == [69.39, 90, 90]
    assert [bool(image.fov_from) for image in images] == [True, False, False]


def test_panoramas_are_not_taken_for_photos(tmp_path):
    whole = photo(tmp_path / "whole.png", (64, 32))
    sweep = photo(tmp_path / "sweep.jpg", (96, 32), focal_35mm=26)
    for picture in (whole, sweep, Image.open(whole), np.zeros((32, 64, 3), np.uint8), torch.zeros(3, 32, 64)):
        with pytest.raises(ValueError, match=r"image must be a photo, not a panorama; got .*, \d\dx32, as wide as"):
            given_images(picture)
        assert only(picture, fov_deg=80).fov_deg == 80
    upright = photo(tmp_path / "upright.jpg", (64, 32), orientation=6)
    assert only(upright).pixels.shape == (3, 64, 32)
    for crop in ((64, 32), (32, 32)):
        tagged = save_with_xmp(
            tmp_path / "tagged.jpg", np.zeros((crop[1], crop[0], 3), np.uint8), gpano((64, 32), crop)
        )
        for options in ({}, {"fov_deg": 90}):
            with pytest.raises(
                ValueError, match=r"not a panorama; the GPano metadata of .*tagged\.jpg says that it is"
            ):
                given_images(tagged, **options)


def test_files_are_decoded_under_the_policy_of_all_images(tmp_path):
    rgb = np.full((4, 6, 3), 100, np.uint8)
    (tmp_path / "deep.png").write_bytes(png(rgb.astype(np.uint16) * 257))
    assert only(tmp_path / "deep.png").pixels.unique().tolist() == pytest.approx([level(100)])
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "p3.png", icc_profile=swapped_profile())
    for picture in (tmp_path / "p3.png", Image.open(tmp_path / "p3.png")):
        torch.testing.assert_close(only(picture).pixels[:, 0, 0], torch.tensor([-1.0, 1, -1]), atol=0.05, rtol=0)
    with pytest.raises(ValueError, match=r"deep\.png must have at most 23 pixels; it is 6x4"):
        given_images(tmp_path / "deep.png", max_pixels=23)
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.gif must be a single still picture; it holds 2"):
        given_images(tmp_path / "a.gif")
