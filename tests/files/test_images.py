"""The policy of `mvdiff.files.images`, on files as cameras and editors write them."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mvdiff
from mvdiff.files.images import (
    BrokenImage,
    UnusableImage,
    decode_image,
    image_size,
    profile_ignored,
    read_depth,
    read_image_uint8,
    read_values,
    stored_size,
)
from tests.files.pictures import encoded, exif, linear_profile, png, profile_of, shape, stored, swapped_profile, tiff16

DEEP = np.array([[0, 128, 129, 255, 257, 384, 386], [1000, 25700, 32767, 32896, 65278, 65407, 65535]], np.uint16)
EIGHT = np.array([[0, 0, 1, 1, 1, 1, 2], [4, 100, 127, 128, 254, 255, 255]], np.uint8)  # round(v / 257), by hand


def pixels_of(path, **options) -> np.ndarray:
    return read_image_uint8(path, **options).permute(1, 2, 0).numpy()


def write(tmp_path, content: bytes, name: str = "a.png"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_golden_grey_of_16_bits(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(DEEP).save(path)
    assert np.array_equal(pixels_of(path), np.repeat(EIGHT[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [3, 4, "tif"])
def test_colour_of_16_bits_is_scaled(tmp_path, channels):
    rgb = np.stack([DEEP, DEEP[:, ::-1], DEEP[::-1]], axis=-1)
    opaque = np.concatenate([rgb, np.full((2, 7, 1), 65535, np.uint16)], axis=-1)
    content = tiff16(rgb) if channels == "tif" else png(opaque[..., :channels])
    expected = np.stack([EIGHT, EIGHT[:, ::-1], EIGHT[::-1]], axis=-1).astype(int)
    error = expected - pixels_of(write(tmp_path, content))
    assert (error.min(), error.max()) == (0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_or_left_as_stored(tmp_path, form, orientation):
    upright = shape()
    as_stored = stored(upright, orientation)
    lossless = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    content = encoded(Image.fromarray(as_stored), form, exif=exif(orientation), **lossless)
    path = write(tmp_path, content)
    for expected, oriented in ((upright, True), (as_stored, False)):
        pixels = pixels_of(path, oriented=oriented)
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() < 2
        assert image_size(path, oriented=oriented) == expected.shape[1::-1]
    if form != "TIFF":
        assert stored_size(path) == as_stored.shape[1::-1]


def test_damaged_exif_is_left_out(tmp_path):
    content = encoded(Image.fromarray(shape()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\x01\x12")
    assert pixels_of(write(tmp_path, content)).shape == (24, 40, 3)
    content = encoded(Image.fromarray(shape()), "JPEG", exif=exif(77))
    assert pixels_of(write(tmp_path, content)).shape == (24, 40, 3)


RED = (200, 30, 40)


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (Image.new("L", (8, 8), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("RGB", (8, 8), RED).convert("P", palette=Image.Palette.ADAPTIVE), "PNG", RED),
        (Image.new("LA", (8, 8), (77, 255)), "PNG", (77, 77, 77)),
        (Image.new("RGBA", (8, 8), (*RED, 255)), "PNG", RED),
        (Image.new("CMYK", (8, 8), (55, 225, 215, 0)), "JPEG", RED),  # stored inverted, as Adobe does
        (Image.new("CMYK", (8, 8), (55, 225, 215, 0)), "TIFF", RED),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_every_mode_becomes_rgb(tmp_path, image, form, expected):
    pixels = pixels_of(write(tmp_path, encoded(image, form)))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def transparent_files() -> dict[str, bytes]:
    rgba = np.concatenate([shape(), np.full((24, 40, 1), 255, np.uint8)], axis=-1)
    rgba[18:, :, 3] = 0
    palette = Image.fromarray(shape()).convert("P", palette=Image.Palette.ADAPTIVE)
    bottom = Image.fromarray(np.where(np.arange(24)[:, None] >= 18, 1, np.zeros((24, 40), int)).astype(np.uint8))
    bottom.putpalette([20, 20, 20, 220, 20, 20])
    faint = rgba.copy()
    faint[..., 3] = 255
    faint[0, 0, 3] = 249
    deep = np.full((24, 40), 1000, np.uint16)
    deep[18:] = 777
    return {
        "RGBA": encoded(Image.fromarray(rgba), "PNG"),
        "WebP": encoded(Image.fromarray(rgba), "WEBP", lossless=True),
        "TIFF": encoded(Image.fromarray(rgba), "TIFF"),
        "LA": encoded(Image.fromarray(rgba).convert("LA"), "PNG"),
        "one faint pixel": encoded(Image.fromarray(faint), "PNG"),
        "palette index": encoded(bottom, "PNG", transparency=1),
        "palette alphas": encoded(bottom, "PNG", transparency=b"\xff\x80"),
        "colour key": encoded(palette.convert("RGB"), "PNG", transparency=(20, 20, 20)),
        "16-bit grey key": png(deep, (b"tRNS", (777).to_bytes(2, "big"))),
    }


@pytest.mark.parametrize("kind", transparent_files())
def test_transparent_pixels_are_an_error_that_counts_them(tmp_path, kind):
    path = write(tmp_path, transparent_files()[kind])
    share = {"one faint pixel": "0.10%", "colour key": r"\d\d.\d\d%"}.get(kind, "25.00%")
    with pytest.raises(UnusableImage, match=rf"a\.png must be opaque; {share} of its pixels are transparent"):
        read_image_uint8(path)
    with pytest.raises(UnusableImage, match="must be opaque"):
        image_size(path)
    assert decode_image(path, "a").alpha.getextrema()[0] < 255


def test_pixels_of_almost_full_alpha_are_opaque(tmp_path):
    pixels = np.concatenate([shape(), np.full((24, 40, 1), 255, np.uint8)], axis=-1)
    pixels[:2, :2, 3] = 250, 254
    assert np.array_equal(pixels_of(write(tmp_path, encoded(Image.fromarray(pixels), "PNG"))), shape())


def test_golden_a_colour_profile_is_applied(tmp_path):
    profile = swapped_profile()
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    for form in ("PNG", "TIFF", "WEBP", "JPEG"):
        options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
        plain = pixels_of(write(tmp_path, encoded(image, form, **options)))
        assert np.abs(plain[0, 0].astype(int) - (255, 0, 0)).max() <= 2
        pixels = pixels_of(write(tmp_path, encoded(image, form, icc_profile=profile, **options)))
        assert np.abs(pixels[0, 0].astype(int) - (0, 255, 0)).max() <= 6, form
    grey = Image.new("L", (8, 8), 100)  # saved with the profile of the colours it was made from
    assert np.abs(pixels_of(write(tmp_path, encoded(grey, "PNG", icc_profile=profile))).astype(int) - 100).max() <= 2
    turned = encoded(Image.fromarray(stored(shape(), 6)), "PNG", icc_profile=profile, exif=exif(6))
    assert np.abs(pixels_of(write(tmp_path, turned))[-1, -1].astype(int) - 20).max() <= 2


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (b"no profile", "cannot open profile"),
        (swapped_profile()[:200], "cannot open profile"),
        (profile_of(b"CMYK"), "it is one of CMYK colours, not of RGB"),
        (profile_of(b"GRAY"), "it is one of GRAY colours, not of RGB"),
    ],
)
def test_a_colour_profile_that_cannot_be_applied_is_ignored_and_said_once(tmp_path, caplog, profile, text):
    path = write(tmp_path, encoded(Image.fromarray(shape()), "PNG", icc_profile=profile))
    for _ in range(2):
        assert np.array_equal(pixels_of(path), shape())
    [record] = caplog.records
    assert f"{path}: its colour profile cannot be applied and is ignored ({text}" in record.getMessage()
    assert profile_ignored(path)
    grey = encoded(Image.new("L", (8, 8), 100), "PNG", icc_profile=profile)
    assert (pixels_of(write(tmp_path, grey, "grey.png")) == 100).all() or profile == profile_of(b"GRAY")
    write(tmp_path, encoded(Image.fromarray(shape()), "PNG", icc_profile=swapped_profile()))
    assert not np.array_equal(pixels_of(path), shape())
    assert not profile_ignored(path)


def test_golden_a_linear_profile_whose_name_begins_with_srgb_is_applied(tmp_path):
    """Linear 100 / 255 = 0.392; 1.055 * 0.392 ** (1 / 2.4) - 0.055 = 0.659, and 0.659 * 255 = 168."""
    image = Image.new("RGB", (8, 8), (100, 100, 100))
    path = write(tmp_path, encoded(image, "PNG", icc_profile=linear_profile()))
    assert np.abs(pixels_of(path).astype(int) - 168).max() <= 1


def test_size_is_bounded_before_anything_is_decoded(tmp_path):
    huge = np.zeros((24, 40), np.uint8)
    content = png(huge)
    for form, path in (
        ("PNG", write(tmp_path, content)),
        ("cut off", write(tmp_path, content[:45], "cut.png")),  # only the header could be read
        ("TIFF", write(tmp_path, encoded(Image.fromarray(huge), "TIFF"), "a.tif")),
    ):
        with pytest.raises(UnusableImage, match=r"must have at most 959 pixels; it is 40x24\. Raise max_pixels"):
            read_image_uint8(path, max_pixels=959)
        assert form == "cut off" or pixels_of(path, max_pixels=960).shape == (24, 40, 3)


def test_pillows_own_limit_neither_warns_nor_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it warns above 100, and refuses above 200
    forms = ("PNG", "JPEG", "TIFF", "WEBP")
    paths = [write(tmp_path, encoded(Image.fromarray(shape()), form), f"a.{form}") for form in forms]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(image_size, paths * 25)) == {(40, 24)}
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_several_frames_are_an_error(tmp_path, form):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 90, 200)]
    path = write(tmp_path, encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    with pytest.raises(UnusableImage, match=r"must be a single still picture; it holds 3\. Save one of them"):
        read_image_uint8(path)


def test_the_first_picture_of_a_phones_mpo_file_is_read(tmp_path):
    first, gain_map = Image.fromarray(shape()), Image.fromarray(np.full((6, 10, 3), 200, np.uint8))
    path = write(tmp_path, encoded(first, "MPO", save_all=True, append_images=[gain_map], quality=95), "a.jpg")
    assert np.abs(pixels_of(path).astype(int) - shape()).mean() < 4


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", "JPG"), ("PNG", "Png"), ("WEBP", "WEBP"), ("TIFF", "TIF")])
def test_damaged_files_are_named(tmp_path, form, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    whole = encoded(noise, form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
    path = write(tmp_path, whole, f"a.{suffix}")
    assert image_size(path) == (64, 48)
    for content in (b"", b"no image", whole[: len(whole) // 2], whole[:20]):
        path.write_bytes(content)
        with pytest.raises(
            BrokenImage, match=rf"a\.{suffix} must be a whole image file; got one that cannot be decoded"
        ):
            read_image_uint8(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"a\.{suffix} does not exist"):
        read_image_uint8(path)
    with pytest.raises(BrokenImage, match="must be a whole image file"):
        read_image_uint8(tmp_path)  # a folder


def test_an_eps_file_is_not_run_whatever_its_name(tmp_path):
    path = write(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "a.jpg")
    with pytest.raises(BrokenImage, match="it is PostScript, which is not read"):
        read_image_uint8(path)


@pytest.mark.parametrize(("dtype", "text"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_of_unknown_range_are_an_error(tmp_path, dtype, text):
    path = write(tmp_path, encoded(Image.fromarray(np.ones((4, 8), dtype)), "TIFF"))
    with pytest.raises(UnusableImage, match=rf"must have 8 or 16 bits per channel; it has {text} pixels"):
        read_image_uint8(path)


def test_depths_are_16_bit_png_of_one_channel(tmp_path, monkeypatch):
    path = write(tmp_path, png(DEEP))
    # 65535 means no depth
    assert read_depth(path)[1].tolist() == pytest.approx([1, 25.7, 32.767, 32.896, 65.278, 65.407, 0])
    assert np.array_equal(read_values(path), DEEP)
    for content, text in (
        (png(EIGHT), r"16-bit PNG with one channel; got uint8 of shape \(2, 7\)"),
        (png(np.stack([DEEP] * 3, axis=-1)), "16-bit PNG with one channel"),
        (encoded(Image.fromarray(DEEP), "TIFF"), "must be a whole image file"),
        (encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "must be a whole image file"),
    ):
        with pytest.raises(ValueError, match=text):
            read_depth(write(tmp_path, content))
    monkeypatch.setattr("mvdiff.files.images.MAX_PIXELS", 13)
    with pytest.raises(UnusableImage, match="at most 13 pixels; it is 7x2"):
        read_depth(write(tmp_path, png(DEEP)))


def test_errors_pass_between_processes(tmp_path):
    with pytest.raises(UnusableImage) as caught:
        read_image_uint8(write(tmp_path, transparent_files()["RGBA"]))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == (str(caught.value), caught.value.reason)
    assert UnusableImage("whole text").reason == "whole text"  # made by a loader of one argument


def test_images_are_opened_in_one_place():
    package = Path(mvdiff.__file__).parent
    openers = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(package).as_posix() for path in openers] == ["files/images.py"]
