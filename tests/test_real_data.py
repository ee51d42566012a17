"""Real panoramas and a real autoencoder (notes/real-data.md): read, cut, compared and encoded as they should be."""

import pytest
import torch

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.check import check_folder
from mvdiff.eval.overlap import overlap_psnr, psnr_from_mse
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.models.autoencoder import autoencoder_stride, decode_latents, encode_images, load_autoencoder
from mvdiff.samples import to_uint8

RIG = RingRig(num_views=8, fov_deg=90, height=128, width=128)


@pytest.fixture(scope="module")
def panoramas(test_data):
    """Views [8, 3, 128, 128] of two test panoramas, a workshop and a lagoon at night, as uint8 would store them."""
    dataset = Matterport3DDataModule(test_data / "data" / "mp3d_skybox", RIG, max_test_samples=2).test_dataset()
    return [to_uint8(dataset[i]["images"]) for i in range(len(dataset))]


@pytest.fixture(scope="module")
def taesd(test_data):
    return load_autoencoder(test_data / "weights" / "taesd").eval()


def test_check_finds_nothing_wrong(test_data):
    report = check_folder(test_data / "data" / "mp3d_skybox")
    assert report.problems == []
    assert report.panoramas == {"test.npy": 15, "train.npy": 59}
    assert (dict(report.sizes), report.captions) == ({(512, 512): 6 * 74}, 8 * 74)


def test_splits_share_no_place(test_data):
    train, test = (Matterport3DPanoramas(test_data / "data" / "mp3d_skybox", split) for split in ("train", "test"))
    places = [{source.sample_id(i) for i in range(len(source))} for source in (train, test)]
    assert not places[0] & places[1]


def test_neighbouring_views_of_real_panoramas_agree(panoramas):
    # Both sides of every pair are cut from the same faces: what is left is interpolation.
    K, R = RIG.cameras()
    for views in panoramas:
        right = overlap_psnr(views, K, R, size=256)["overlap_psnr_mean_of_pairs"]
        turned_the_wrong_way = overlap_psnr(views, K, R.mT, size=256)["overlap_psnr_mean_of_pairs"]
        assert 33 < right < 60
        assert turned_the_wrong_way < right - 10


def test_a_turn_of_one_view_moves_views_by_one_place(test_data, panoramas):
    source = Matterport3DPanoramas(test_data / "data" / "mp3d_skybox", "test")
    K, R = RIG.cameras(yaw_offset_deg=45)
    turned = to_uint8(source.views(0, K, R, RIG.height, RIG.width))
    difference = (turned.int() - panoramas[0].roll(-1, dims=0).int()).abs()
    assert difference.float().mean() < 0.1  # gray levels; rounding at face borders aside, the same pixels
    assert (turned.int() - panoramas[0].int()).abs().float().mean() > 10


def test_real_pictures_continue_over_every_border_of_faces(test_data):
    # Views whose middle column (yaw 45, 135, ...) or middle row (pitch +-45) is the border of two faces: the step over
    # it is one like those beside it, which holds only where faces lie in their true order and turn.
    source = Matterport3DPanoramas(test_data / "data" / "mp3d_skybox", "test")
    beside = [(yaw, 0, 60) for yaw in (45, 135, 225, 315)]
    above_and_below = [(yaw, pitch, 60) for pitch in (45, -45) for yaw in (0, 90, 180, 270)]
    K, R = Rig(beside + above_and_below, 128, 128).cameras()
    for i in range(2):
        views = source.views(i, K, R, 128, 128)
        views[4:] = views[4:].mT.clone()
        steps = (views[..., 1:] - views[..., :-1]).abs().mean(dim=(1, 2))
        ratio = steps[:, 63] / steps[:, 48:79].mean(dim=1)
        assert ratio.mean() < 1.5


@torch.no_grad()
def test_taesd_gives_real_views_back(panoramas, taesd):
    # 20.8 dB (fine clutter) and 29.8 dB (night) on all eight views: notes/real-data.md.
    assert autoencoder_stride(taesd) == 8
    found = []
    for views in panoramas:
        images = views[::4].float() / 127.5 - 1
        latents = encode_images(taesd, images)
        assert latents.shape == (2, 4, 16, 16)
        found.append(psnr_from_mse(float(((decode_latents(taesd, latents) - images) / 2).square().mean())))
    assert 18 < found[0] < 24
    assert 26 < found[1] < 33


@torch.no_grad()
def test_taesd_latents_are_as_wide_as_the_noise(panoramas, taesd):
    # Stable Diffusion's scaled latents have a standard deviation near 1: no factor is missing or counted twice.
    latents = encode_images(taesd, torch.cat([views[::4] for views in panoramas]).float() / 127.5 - 1)
    assert 0.5 < latents.std() < 1.5
