import pytest

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.captions import JUDGED_HEADS
from mvdiff.data.toyworld.truth import read_truth, read_walk_truth


def test_every_panorama_has_the_facts_of_its_eight_views(tmp_path):
    root = write_toyworld(tmp_path / "world", rooms=2, seed=5, size=16, test_rooms=1, num_frames=0)
    for split in ("train", "test"):
        source = Matterport3DPanoramas(root, split)
        truth = read_truth(root, source.sample_id(0))
        assert truth == read_truth(str(root / "mp3d_skybox"), source.sample_id(0))
        assert list(truth) == list(range(0, 360, 45))
        captions = source.captions(0)
        for degree, shown in truth.items():
            assert set(shown) == set(JUDGED_HEADS)
            assert f"{shown['walls']} walls" in captions[degree]
            assert shown["object"] == "none" or f"{shown['colour']} {shown['object']}" in captions[degree]
    with pytest.raises(FileNotFoundError, match=r"must have its facts; got none for 'toy00007_toy00007', at .*json"):
        read_truth(root, "toy00007_toy00007")


def test_every_frame_of_a_walk_has_its_facts(tmp_path):
    scene = write_toyworld(tmp_path, rooms=2, seed=5, size=32, test_rooms=1, num_frames=7) / "scannet/test/toy00001"
    truth = read_walk_truth(scene)
    assert list(truth) == list(range(7))
    for frame, shown in truth.items():
        caption = (scene / "prompt" / f"{frame}.txt").read_text()
        assert set(shown) == set(JUDGED_HEADS)
        assert f"{shown['walls']} walls" in caption
        assert shown["object"] == "none" or f"{shown['colour']} {shown['object']} in the middle" in caption
    assert len({(shown["object"], shown["colour"]) for shown in truth.values()}) > 1  # each frame has its own
    with pytest.raises(FileNotFoundError, match=r"must have its facts; got none at .*toy00007/truth\.json"):
        read_walk_truth(scene.parent / "toy00007")
