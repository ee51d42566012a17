import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mvdiff.batch import MultiViewBatch
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import PanoramaDataset, mirrored_caption, nearest_caption
from mvdiff.geometry.cameras import Rig, RingAndPolesRig, RingRig
from tests.data.folders import FACE_COLOURS, write_equirectangular, write_matterport3d

RIG = RingRig(height=12, width=16)
EIGHT = {degree: str(degree) for degree in range(0, 360, 45)}


@pytest.fixture(scope="module")
def skyboxes(tmp_path_factory):
    return Matterport3DPanoramas(write_matterport3d(tmp_path_factory.mktemp("mp3d")))


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory):
    return EquirectangularPanoramas(write_equirectangular(tmp_path_factory.mktemp("erp")))


@given(yaw=st.integers(-720, 720))
def test_caption_matches_rounding_to_45_degrees(yaw):
    assert nearest_caption(EIGHT, yaw) == str(int((yaw + 22.5) // 45 * 45) % 360)


def test_golden_captions():
    # Literals by hand: 337.5 is half-way from 315 to 360 and goes up, as 285 is from 200 to 370.
    assert [nearest_caption(EIGHT, yaw) for yaw in (0, 22, 22.5, 337, 337.5, -23, 50)] == [
        "0", "0", "45", "315", "0", "315", "45",
    ]  # fmt: skip
    assert nearest_caption({10: "a", 200: "b"}, 284) == "b"
    assert nearest_caption({10: "a", 200: "b"}, 285) == "a"


def test_vertical_views_take_the_pole_captions_where_there_are_some():
    poles = EIGHT | {"up": "lamp", "down": "rug"}
    assert nearest_caption(poles, 90, 46) == "lamp"
    assert nearest_caption(poles, 90, -46) == "rug"
    assert nearest_caption(poles, 90, 45) == "90"
    assert nearest_caption(EIGHT, 90, 80) == "90"
    with pytest.raises(ValueError, match="at least one yaw"):
        nearest_caption({"up": "lamp"}, 0)


def test_golden_directions(skyboxes):
    """Views at yaw 0, 90, 180, 270, up and down show faces 2, 3, 4, 1, 0 and 5 (docs/data.md)."""
    rig = Rig([(0, 0, 40), (90, 0, 40), (180, 0, 40), (270, 0, 40), (0, 90, 40), (0, -90, 40)], 4, 4)
    images = PanoramaDataset(skyboxes, rig)[0]["images"]
    seen = (images.mean(dim=(-1, -2)) + 1) * 127.5
    expected = torch.tensor([FACE_COLOURS[face] for face in (2, 3, 4, 1, 0, 5)], dtype=torch.float)
    torch.testing.assert_close(seen, expected, atol=4, rtol=0)


def test_yaw_turns_views_and_prompts_together(skyboxes):
    at_0, at_90 = PanoramaDataset(skyboxes, RIG, [0])[0], PanoramaDataset(skyboxes, RIG, [90])[0]
    torch.testing.assert_close(at_90["images"][:6], at_0["images"][2:], atol=1e-4, rtol=0)
    assert at_90["prompts"][:6] == at_0["prompts"][2:]
    assert at_0["prompts"][1] == "pano0 towards 45"
    assert torch.equal(at_0["R"], at_90["R"])
    assert torch.equal(at_0["R"], RIG.cameras()[1])
    assert (at_0["yaw_deg"], at_90["yaw_deg"]) == (0, 90)


@pytest.mark.parametrize("rig", [RIG, RingAndPolesRig(4, pitch_deg=20, height=12, width=10)])
def test_mirrored_sample_matches_sample_of_the_mirrored_file(tmp_path, rig):
    """Oracle: mirror the picture on disk (columns at half pixels: an exact flip of yaw), then cut as usual."""
    write_equirectangular(tmp_path / "plain"), write_equirectangular(tmp_path / "flipped")
    for path in (tmp_path / "flipped").glob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    mirrored = PanoramaDataset(EquirectangularPanoramas(tmp_path / "plain"), rig).cut(0, 30, mirrored=True)
    flipped = PanoramaDataset(EquirectangularPanoramas(tmp_path / "flipped"), rig).cut(0, 30)
    torch.testing.assert_close(mirrored["images"], flipped["images"], atol=2e-3, rtol=0)
    assert torch.equal(mirrored["R"], flipped["R"])


def test_mirrored_prompts_follow_what_is_seen(skyboxes):
    prompts = PanoramaDataset(skyboxes, RIG).cut(0, 0, mirrored=True)["prompts"]
    assert prompts[:3] == ["pano0 towards 0", "pano0 towards 315", "pano0 towards 270"]


def test_samples_are_keyed(skyboxes):
    dataset = PanoramaDataset(skyboxes, RIG, "random", seed=1, mirror=True)
    other = PanoramaDataset(skyboxes, RIG, "random", seed=2, mirror=True)
    yaws = [dataset.yaw_deg(epoch, index) for epoch in range(40) for index in range(5)]
    assert all(yaw == int(yaw) and 0 <= yaw < 360 for yaw in yaws)
    assert len(set(yaws)) > 100
    assert yaws[:5] != yaws[5:10]
    assert yaws[:5] != [other.yaw_deg(0, index) for index in range(5)]
    mirrored = [dataset.mirrored(epoch, index) for epoch in range(40) for index in range(5)]
    assert 70 < sum(mirrored) < 130
    first, again = dataset[3, 4], PanoramaDataset(skyboxes, RIG, "random", seed=1, mirror=True)[3, 4]
    assert torch.equal(first["images"], again["images"])
    assert (first["yaw_deg"], first["prompts"]) == (again["yaw_deg"], again["prompts"])
    assert dataset[2]["yaw_deg"] == dataset[0, 2]["yaw_deg"]


def test_golden_yaws(skyboxes):
    # From the keyed hash of ("yaw", 0, epoch, index): a change would change what every run sees.
    dataset = PanoramaDataset(skyboxes, RIG, "random", seed=0)
    assert [dataset.yaw_deg(epoch, index) for epoch, index in ((0, 0), (0, 1), (1, 0))] == [255.0, 312.0, 106.0]


def test_listed_yaws_are_all_used_and_no_others(skyboxes):
    dataset = PanoramaDataset(skyboxes, RIG, [0, 45.0, 90])
    assert {dataset.yaw_deg(epoch, 0) for epoch in range(40)} == {0, 45, 90}


def test_fewer_panoramas_change_none_of_them(skyboxes):
    whole = PanoramaDataset(skyboxes, RIG, "random")
    part = PanoramaDataset(skyboxes, RIG, "random", indices=range(2, 4))
    assert len(part) == 2
    assert part[5, 1]["sample_index"] == 3
    assert torch.equal(part[5, 1]["images"], whole[5, 3]["images"])


def test_sample_collates(panoramas):
    batch = MultiViewBatch.collate([PanoramaDataset(panoramas, RIG, mirror=True)[0, index] for index in range(2)])
    assert batch.images.shape == (2, 8, 3, 12, 16)
    assert batch.images.dtype == torch.float32
    assert batch.sample_id == ["place0", "place1"]
    assert batch.prompts[0][3] == "wall"
    assert batch.prompts[1][3] == "the place1"


def test_errors(skyboxes):
    with pytest.raises(ValueError, match="at least one panorama"):
        PanoramaDataset(skyboxes, RIG, indices=range(0))
    for yaw in ("any", []):
        with pytest.raises(ValueError, match='yaw must be "random" or a list'):
            PanoramaDataset(skyboxes, RIG, yaw)
    with pytest.raises(IndexError):
        PanoramaDataset(skyboxes, RIG)[0, 5]


def test_a_mirrored_caption_swaps_left_and_right_and_mirroring_twice_is_nothing():
    text = "a red ball on the left, a bright window to the right"
    assert mirrored_caption(text) == "a red ball on the right, a bright window to the left"
    assert mirrored_caption(mirrored_caption(text)) == text
    assert mirrored_caption("Left, RIGHT, leftover") == "Right, LEFT, leftover"
