import json
import logging

import pytest
import torch
from PIL import Image

from mvdiff.data.equirectangular import EquirectangularPanoramas, read_prompts
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.geometry.cameras import Rig
from tests.data.folders import truncate, write_equirectangular


@pytest.fixture
def root(tmp_path):
    return write_equirectangular(tmp_path)


def test_reads_the_layout(root):
    source = EquirectangularPanoramas(root)
    assert len(source) == 5
    assert source.sample_id(2) == "place2"
    assert source.panorama(2).shape == (3, 16, 32)
    assert source.captions(0) == {0: "place0 door", 180: "wall"}
    assert source.captions(1) == {0: "the place1"}
    assert [EquirectangularPanoramas(root, "test").sample_id(index) for index in range(2)] == ["place5", "place6"]


def test_golden_yaw_grows_to_the_right(root):
    """Red is the column: the centre (yaw 0) is 127, a quarter to the right (yaw 90) 191, to the left 63."""
    views = PanoramaDataset(EquirectangularPanoramas(root), Rig([(0, 0, 5), (90, 0, 5), (-90, 0, 5)], 3, 3))[0]
    red = (views["images"][:, 0].mean(dim=(-1, -2)) + 1) * 127.5
    torch.testing.assert_close(red, torch.tensor([123.5, 187.5, 59.5]), atol=4.1, rtol=0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "must be JSON"),
        ("[]", 'either "prompt" or "prompts"'),
        ('{"prompt": "a", "prompts": {"0": "a"}}', 'either "prompt" or "prompts"'),
        ('{"caption": "a"}', 'either "prompt" or "prompts"'),
        ('{"prompt": "  "}', "a prompt for '0'; got an empty one"),
        ('{"prompts": ["a"]}', 'must have "prompts" by degree'),
        ('{"prompts": {"360": "a"}}', "got '360'"),
        ('{"prompts": {"left": "a"}}', "got 'left'"),
        ('{"prompts": {"0": 3}}', "a text as the prompt of '0'; got 3"),
        ('{"prompts": {"up": "a"}}', "at least one yaw"),
        ('{"prompts": {}}', "at least one yaw"),
    ],
)
def test_bad_prompts_are_named(tmp_path, content, text):
    path = tmp_path / "name.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=text) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_prompts_by_degree_and_poles(tmp_path):
    path = tmp_path / "name.json"
    path.write_text(json.dumps({"prompts": {"0": " a ", "270": "b", "up": "c"}}))
    assert read_prompts(path) == {0: "a", 270: "b", "up": "c"}


@pytest.mark.parametrize(("name", "what"), [("place1.json", "does not exist"), ("place1.png", "has no image file")])
def test_incomplete_panorama_is_an_error_or_a_counted_skip(root, name, what, caplog):
    (root / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 5 panoramas .*{what}.*mvdiff data check"):
        EquirectangularPanoramas(root)
    with caplog.at_level(logging.WARNING):
        source = EquirectangularPanoramas(root, on_broken="skip")
    assert (len(source), source.num_skipped) == (4, 1)
    assert "skipped" in caplog.text


def test_truncated_and_wrong_size_are_named_when_read(root):
    truncate(root / "place0.png")
    Image.new("RGB", (30, 16)).save(root / "place1.png")
    source = EquirectangularPanoramas(root)
    with pytest.raises(ValueError, match=r"place0\.png must be a whole image file"):
        source.panorama(0)
    with pytest.raises(ValueError, match=r"place1\.png must be twice as wide as high; got 30x16"):
        source.panorama(1)


@pytest.mark.parametrize(
    ("content", "text"),
    [("\n", "at least one name"), ("place0\nplace1\nplace0\n", "got 'place0' twice"), (None, "does not exist")],
)
def test_bad_list_is_named(root, content, text):
    path = root / "train.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=text) as caught:
        EquirectangularPanoramas(root)
    assert "mvdiff data split" in str(caught.value)


def test_two_images_of_one_name(root):
    Image.new("RGB", (32, 16)).save(root / "place1.jpg")
    with pytest.raises(ValueError, match=r"place1\.png must have a unique name"):
        EquirectangularPanoramas(root)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        EquirectangularPanoramas(tmp_path / "nowhere")
