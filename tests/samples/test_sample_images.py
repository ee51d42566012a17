"""Images of samples that other programs wrote, as `evaluate`, reports and meshes read them."""

import numpy as np
import pytest
from PIL import Image

from mvdiff.eval.sources import FolderSource
from mvdiff.mesh.frames import open_frames
from mvdiff.samples import read_sample, write_sample
from mvdiff.samples.pixels import read_png
from tests.eval.worlds import RIG, views, write_samples, write_upstream
from tests.files.pictures import encoded, exif, png, stored
from tests.samples.test_depths import depths, images, record


@pytest.fixture(params=["sample.json", "2023 release"])
def root(request, tmp_path):
    if request.param == "sample.json":
        return write_samples(tmp_path / "out", 2)
    return write_upstream(tmp_path / "out", 2, noise=0.0)


def first_view(root):
    folder = next(iter(sorted(root.iterdir())))
    return folder / "0.png", views(0, RIG)[0]


@pytest.mark.parametrize("kind", ["16 bits", "turned", "opaque alpha"])
def test_views_are_read_under_the_same_policy(root, kind):
    path, pixels = first_view(root)
    opaque = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], -1)
    path.write_bytes(
        {
            "16 bits": png(pixels.astype(np.uint16) * 257),
            "turned": encoded(Image.fromarray(stored(pixels, 3)), "PNG", exif=exif(3)),
            "opaque alpha": png(opaque),
        }[kind]
    )
    assert np.array_equal(next(iter(FolderSource(root))).images_uint8[0].permute(1, 2, 0), pixels)
    assert np.array_equal(read_sample(path.parent).images_uint8()[0].permute(1, 2, 0), pixels)


def test_grey_of_16_bits_is_no_white(root):
    path, pixels = first_view(root)
    path.write_bytes(png(pixels[..., 0].astype(np.uint16) * 257))
    assert np.array_equal(read_png(path).permute(1, 2, 0), np.repeat(pixels[..., :1], 3, -1))


def test_a_transparent_view_makes_its_sample_unreadable_and_is_named(root):
    path, pixels = first_view(root)
    path.write_bytes(png(np.concatenate([pixels, np.zeros((*pixels.shape[:2], 1), np.uint8)], -1)))
    source = FolderSource(root)
    assert len(list(source)) == 1
    [unreadable] = source.describe()["unreadable"]
    assert f"{path} must be opaque; 100.00% of its pixels are transparent" in unreadable["reason"]


def test_frames_of_a_mesh_are_read_the_same_way(tmp_path):
    pixels = images()
    folder = write_sample(tmp_path / "walk", record(), pixels, depths=depths())
    (folder / "0.png").write_bytes(png(pixels[0].astype(np.uint16) * 257))
    assert np.array_equal(open_frames(folder)[0].image, pixels[0])
    (folder / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"image .*0\.png cannot be read \(it is (no image|empty)\)"):
        open_frames(folder)[0]
