"""Images that stand for a panorama, and where a sample's panorama comes from."""

import math

import pytest
import torch

from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.eval.panorama_images import icosahedron_rig, panorama_images, sized_panorama
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.geometry.cameras import RingRig
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.samples import save_panorama
from mvdiff.samples.folders import PANORAMA_NAME
from tests.data.folders import write_equirectangular, write_matterport3d
from tests.eval.worlds import write_samples


def noise(height, seed=0):
    return torch.randint(0, 256, (3, height, 2 * height), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_the_views_look_at_the_corners_of_a_dodecahedron():
    """Of 20 such directions each has 3 nearest ones at 41.81 degrees; their mean is 0."""
    _, R = icosahedron_rig().cameras()
    directions = R[:, :, 2].double()
    angles = torch.rad2deg((directions @ directions.T).clamp(-1, 1).acos())
    nearest = angles.fill_diagonal_(180).sort(dim=1).values[:, :4]
    assert torch.allclose(nearest[:, :3], torch.tensor(math.degrees(math.acos(math.sqrt(5) / 3))).double(), atol=1e-3)
    assert (nearest[:, 3] > 60).all()
    assert directions.mean(dim=0).abs().max() < 1e-6


def test_views_show_where_they_look():
    rows = torch.arange(512)[:, None] // 2
    images = panorama_images(rows.expand(3, 512, 1024).to(torch.uint8))
    pitch = torch.tensor(icosahedron_rig().pitch_deg)
    middle = images["icosahedron"][:, 0, 149, 149].float()
    assert torch.allclose(middle, (90 - pitch) / 180 * 256 - 0.5, atol=1.5)
    assert images["ring"][:, 0, 149, 149].float().sub(127.5).abs().max() <= 1
    assert [images[name].shape[0] for name in ("whole", "rolled", "ring", "icosahedron")] == [1, 1, 8, 20]
    assert images["ring"].shape[1:] == images["icosahedron"].shape[1:] == (3, 299, 299)


def test_the_roll_brings_the_wrap_to_the_middle():
    panorama = noise(512)
    images = panorama_images(panorama)
    assert torch.equal(images["whole"][0], panorama)
    assert torch.equal(images["rolled"][0, :, :, 512], panorama[:, :, 0])
    assert torch.equal(images["rolled"][0, :, :, 511], panorama[:, :, -1])


@pytest.mark.parametrize("height", [16, 64])
def test_resizing_knows_no_border(height):
    """Rolling before or after is the same, also for the columns at the border; the size itself changes nothing."""
    panorama, scale = noise(height), height // 16
    resized = sized_panorama(panorama, 16)
    assert resized.shape == (3, 16, 32)
    assert torch.equal(sized_panorama(panorama.roll(5 * scale, -1), 16), resized.roll(5, -1))
    assert torch.equal(sized_panorama(panorama, height), panorama)


def test_folders_read_the_panorama_when_it_is_asked_for(tmp_path):
    root = write_samples(tmp_path / "a", num=3)
    (root / "s1" / PANORAMA_NAME).write_bytes(b"broken")
    save_panorama(root / "s0" / PANORAMA_NAME, noise(8).permute(1, 2, 0))
    whole, broken, none = FolderSource(root).part(0, 1, num_workers=1)
    assert torch.equal(whole.panorama_uint8, noise(8))
    with pytest.raises(ValueError, match=r"image .*panorama\.png cannot be read"):
        _ = broken.panorama_uint8
    with pytest.raises(ValueError, match=r"panorama must be stored as panorama\.png .* got none"):
        _ = none.panorama_uint8
    save_panorama(root / "s2" / PANORAMA_NAME, noise(8)[:, :6].permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"twice as wide as high; got 16 x 6"):
        _ = list(FolderSource(root))[2].panorama_uint8


@pytest.mark.parametrize(
    ("write", "module"),
    [(write_equirectangular, EquirectangularDataModule), (write_matterport3d, Matterport3DDataModule)],
)
def test_data_modules_give_the_panorama_that_the_views_are_cut_from(tmp_path, write, module):
    rig = RingRig(num_views=4, fov_deg=30.0, height=4, width=4)
    data = module(str(write(tmp_path / "data", num_train=1, num_test=2)), rig=rig)
    (sample,) = DataSource(data).part(1, 2, num_workers=0)  # the second one
    cut = perspective_from_equirectangular(sample.panorama_uint8, sample.K, sample.R, 4, 4)
    assert (cut - sample.images_uint8).abs().max() < 6  # JPEG faces; the first sample differs by 20 and more
