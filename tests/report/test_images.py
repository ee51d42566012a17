import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mvdiff.report import PanoramaEntry
from mvdiff.report.images import checked_image, data_uri, is_pixelated, paint_uncovered


def decoded(uri: str) -> tuple[str, np.ndarray]:
    head, data = uri.split(",", 1)
    return head, np.array(Image.open(BytesIO(base64.b64decode(data))))


def test_small_images_survive_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    head, read = decoded(data_uri(image))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(read, image)


def test_large_images_are_jpeg_and_stay_close():
    yy, xx = np.mgrid[0:512, 0:1024]
    image = np.stack([xx // 4, yy // 2, (xx + yy) // 8], -1).astype(np.uint8)
    head, read = decoded(data_uri(image))
    assert head == "data:image/jpeg;base64"
    assert np.abs(read.astype(int) - image).mean() < 2


@pytest.mark.parametrize("height", [64, 600])
def test_a_panorama_of_a_page_can_be_saved_for_other_viewers(height):
    entry = PanoramaEntry("room", ["a room"], {"CAA": np.zeros((height, 2 * height, 3), np.uint8)})
    [method] = entry.packed()["methods"]
    saved = base64.b64decode(method["image"].split(",", 1)[1])
    assert f'GPano:CroppedAreaImageHeightPixels="{height}"'.encode() in saved


def test_uncovered_pixels_turn_grey_and_covered_ones_stay():
    image = np.full((2, 3, 3), 7, np.uint8)
    covered = np.array([[1, 0, 1], [1, 1, 1]], bool)
    painted = paint_uncovered(image, covered)
    assert painted[0, 1].tolist() == [128, 128, 128]
    assert (painted[covered] == 7).all()
    assert painted.dtype == np.uint8
    assert paint_uncovered(image, None) is image


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"the mask must have the panorama's height and width \[2, 4\]; got \[4, 2\]"):
        paint_uncovered(np.zeros((2, 4, 3), np.uint8), np.zeros((4, 2), bool), "the mask")


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8), (8, 8, 4), (0, 8, 3)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"views\[0\] must be a uint8 image of shape \[H, W, 3\]; got uint8"):
        checked_image("views[0]", np.zeros(shape, np.uint8))


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="got float32 of shape"):
        checked_image("x", np.zeros((8, 8, 3), np.float32))


def test_only_small_images_keep_hard_pixels():
    assert is_pixelated(np.zeros((64, 128, 3), np.uint8))
    assert not is_pixelated(np.zeros((64, 129, 3), np.uint8))
