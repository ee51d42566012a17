import pytest

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.captions import JUDGED_HEADS, NAMED_FRACTION
from mvdiff.data.toyworld.scene import make_walk
from mvdiff.data.toyworld.truth import WalkTruth, read_truth


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
    with pytest.raises(FileNotFoundError, match=r"must have true labels; .*json does .* 'toy00007_toy00007'"):
        read_truth(root, "toy00007_toy00007")


def test_every_frame_of_a_walk_says_where_its_things_are(tmp_path):
    scene = write_toyworld(tmp_path, rooms=2, seed=5, size=32, test_rooms=1, num_frames=7) / "scannet/test/toy00001"
    truth, room = WalkTruth(scene), make_walk(5, 1)
    assert truth.things == [{"kind": thing.kind, "colour": thing.colour} for thing in room.things]
    seen = []
    for frame in range(7):
        labels, caption = truth.labels(frame), (scene / "prompt" / f"{frame}.txt").read_text()
        assert labels.shape == (24, 32)
        for number, thing in enumerate(truth.things):  # the caption names what covers at least 1.5 % of the frame
            named = f"{thing['colour']} {thing['kind']} " in caption
            assert named == ((labels == number).double().mean() >= NAMED_FRACTION)
        seen.append(set(labels.unique().tolist()))
    assert all(-1 in numbers for numbers in seen)
    assert seen[0] != seen[3]
    with pytest.raises(FileNotFoundError, match=r"must have ground truth; .*toy00007/truth/things\.json does"):
        WalkTruth(scene.parent / "toy00007")
