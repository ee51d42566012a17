"""Samples of frames: which frames they hold, in every mode; nothing but (seed, epoch, index) matters."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.batch import MultiViewBatch
from mvdiff.data.frames import FrameDataset, window_starts
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.sequences import FrameSequence, frames_between, full_sequence, interval_sequence, key_sequence
from mvdiff.geometry.depth import unproject
from tests.data.scenes import pose_of, write_scene


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """40 frames, keys every 3 (14 of them) and 33 frames, keys every 3 (11)."""
    root = tmp_path_factory.mktemp("scenes")
    return [
        ScanNetScene(write_scene(root / name, num_frames=num_frames, first=first, key_every=3))
        for name, num_frames, first in (("a", 40, 0), ("b", 33, 100))
    ]


def dataset(scenes, mode, **settings):
    return FrameDataset(scenes, mode, **{"height": 6, "width": 8, "seed": 3} | settings)


def frames_by_slot(data, epoch=0):
    return {(slot.scene, slot.start): frames for slot, frames in (data.frames_of(epoch, i) for i in range(len(data)))}


def test_key_frame_windows(scenes):
    data = dataset(scenes, "keyframes")
    keys = list(range(0, 40, 3))
    assert frames_by_slot(data) == {(0, 0): keys[:12], (0, 2): keys[2:], (1, 0): list(range(100, 133, 3))}
    sample = data[2]
    assert sample["sample_id"] == "b_keyframes_100"
    assert sample["view_valid"].tolist() == [True] * 11 + [False]
    assert sample["images"].shape == (12, 3, 6, 8)
    assert sample["prompts"] == [f"frame {frame}" for frame in range(100, 133, 3)] + [""]
    assert not sample["known"].any()
    assert sample["depths"][:, 0, 0].tolist() == pytest.approx([1 + f / 1000 for f in range(100, 133, 3)] + [0])
    assert len(dataset(scenes, "keyframes", num_views=5, min_frames=12)) == 3
    left_out = dataset(scenes, "keyframes", min_frames=12)
    assert (len(left_out), left_out.left_out) == (2, {"fewer than 12 key frames": 1})


def test_interpolation_holds_two_given_frames_and_those_between(scenes):
    data = dataset(scenes, "interpolation")
    assert [frames for _, frames in (data.frames_of(0, i) for i in (0, 1, 13))] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [100, 101, 102, 103],
    ]
    assert len(data) == 13 + 10
    sample = data[13]
    assert sample["sample_id"] == "b_interpolation_100"
    assert sample["view_valid"].tolist() == [True] * 4 + [False] * 8
    assert sample["known"][:, 0, 2, 3].tolist() == [1, 0, 0, 1] + [0] * 8
    two = dataset(scenes, "interpolation", max_between=1)
    assert two.frames_of(0, 1)[1] == [3, 5, 6]
    assert two[0]["images"].shape[0] == 3


@given(st.integers(0, 60), st.integers(1, 12))
def test_frames_between_are_even(count, most):
    chosen = frames_between(range(100), 10, 11 + count, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    assert all(10 < frame < 11 + count for frame in chosen)
    gaps = np.diff([10, *chosen, 11 + count])
    assert max(gaps) - min(gaps) <= 1
    assert frames_between(range(100), 10, 11 + count, None) == list(range(11, 11 + count))


@given(st.integers(1, 100), st.integers(1, 15))
def test_windows_cover_every_frame(num_frames, num_views):
    starts = window_starts(num_frames, num_views)
    covered = {start + i for start in starts for i in range(num_views)}
    assert covered >= set(range(num_frames))
    assert all(start + num_views <= max(num_frames, num_views) for start in starts)
    assert starts[:-1] == [num_views * i for i in range(len(starts) - 1)]
    assert len(starts) == -(-num_frames // num_views)


def test_interval(scenes):
    data = dataset(scenes, "interval", interval=4, num_views=6)
    assert frames_by_slot(data) == {
        (0, 0): [0, 4, 8, 12, 16, 20],
        (0, 4): [16, 20, 24, 28, 32, 36],
        (1, 0): [100, 104, 108, 112, 116, 120],
        (1, 3): [112, 116, 120, 124, 128, 132],
    }
    at_once = dataset(scenes, "interval", interval=10, num_views=None, min_frames=1)
    assert frames_by_slot(at_once) == {(0, 0): [0, 10, 20, 30], (1, 0): [100, 110, 120, 130]}
    assert at_once[0]["images"].shape[0] == 4
    assert dataset(scenes, "interval").left_out == {"fewer than 10 frames at the interval": 2}


def test_whole_scenes_above_150_frames_are_left_out(tmp_path):
    long = [ScanNetScene(write_scene(tmp_path / str(n), num_frames=n, key_every=None)) for n in (150, 151)]
    data = dataset(long, "interval", interval=1, num_views=None)
    assert (len(data), data.left_out) == (1, {"more than 150 frames at the interval": 1})


def test_single_frames(scenes):
    data = dataset(scenes, "frames", interval=20)
    assert list(frames_by_slot(data).values()) == [[0], [20], [100], [120]]
    assert data[3]["images"].shape == (1, 3, 6, 8)
    assert len(dataset(scenes, "frames", interval=1)) == 73
    every = dataset(scenes, "frames", interval=20, training=True)
    assert [every.frames_of(epoch, i)[1] for epoch in (0, 4) for i in range(73)] == 2 * [
        [frame] for frame in (*range(40), *range(100, 133))
    ]
    few = dataset(scenes, "frames", interval=20, training=True, train_samples="windows")
    assert len(few) == 4
    assert {few.frames_of(epoch, 3)[1][0] for epoch in range(150)} == set(range(120, 133))


def test_mixed_is_half_of_each(scenes):
    data = dataset(scenes, "mixed", training=True, train_samples="windows")
    samples = [data.frames_of(epoch, i) for epoch in range(30) for i in range(len(data))]
    assert len(data) == 6
    assert sum(slot.mode == "interpolation" for slot, _ in samples) == len(samples) / 2
    pairs = {frames[0] for slot, frames in samples if slot[:2] == (0, "interpolation")}
    assert pairs == set(range(0, 39, 3))  # every pair of the scene is met
    assert data[0]["images"].shape == data[1]["images"].shape
    assert dataset(scenes, "mixed")[1]["sample_id"] == "a_interpolation_0"
    batch = MultiViewBatch.collate([data[0], data[1]])
    assert batch.known.flatten(2)[..., 0].sum(dim=1).tolist() == [0, 2]


def test_an_epoch_has_a_sample_per_key_frame(scenes):
    assert len(dataset(scenes, "keyframes", training=True)) == 14 + 11
    assert len(dataset(scenes, "keyframes")) == 3  # evaluation stays at windows
    assert len(dataset(scenes, "keyframes", training=True, num_views=None)) == 2  # whole scenes at once
    data = dataset(scenes, "mixed", training=True)
    assert len(data) == 14 + 11
    for epoch in range(2):
        samples = [data.frames_of(epoch, i) for i in range(len(data))]
        assert sum(slot.mode == "interpolation" for slot, _ in samples) in (12, 13)
        assert [slot.scene for slot, _ in samples] == [0] * 14 + [1] * 11
        assert all(len(frames) == min(12, 14 - 3 * slot.scene) for slot, frames in samples if slot.mode == "keyframes")
    assert {data.frames_of(epoch, 5)[0].mode for epoch in range(2)} == {"keyframes", "interpolation"}
    pairs = {frames[0] for epoch in range(200) for _, frames in [data.frames_of(epoch, 0)] if len(frames) == 4}
    assert pairs == set(range(0, 39, 3))


def test_frames_between_are_drawn_anew_in_each_epoch(tmp_path):
    path = write_scene(tmp_path / "g", num_frames=41, key_every=20)
    settings = {"max_between": 5, "min_frames": 2}
    data = dataset([ScanNetScene(path)], "interpolation", training=True, **settings)
    draws = [data.frames_of(epoch, 1)[1] for epoch in range(200)]
    assert all(frames == sorted(set(frames)) and len(frames) == 7 for frames in draws)
    assert all((frames[0], frames[-1]) == (20, 40) for frames in draws)
    counts = np.bincount([frame for frames in draws for frame in frames[1:-1]], minlength=40)[21:40]
    assert counts.sum() == 1000
    assert (abs(counts - 1000 / 19) < 5 * (200 * 5 / 19 * 14 / 19) ** 0.5).all()  # each as likely as the others
    assert draws == [data.frames_of(epoch, 1)[1] for epoch in range(200)]
    even = [20, *frames_between(range(41), 20, 40, 5), 40]
    for held in ({"training": False}, {"training": True, "draw_between": False}):
        same = dataset([ScanNetScene(path)], "interpolation", **settings, **held)
        assert same.frames_of(0, 1)[1] == same.frames_of(7, 1)[1] == even
    few = dataset([ScanNetScene(path)], "interpolation", training=True, max_between=19, min_frames=2)
    assert few.frames_of(3, 0)[1] == list(range(21))  # all of them, where they are no more


def test_training_starts_anywhere(scenes):
    data = dataset(scenes, "keyframes", training=True, num_views=8)
    starts = {(slot.scene, slot.start) for epoch in range(60) for slot, _ in [data.frames_of(epoch, 0)]}
    assert starts == {(0, start) for start in range(7)}
    phases = {dataset(scenes, "interval", interval=3, training=True).frames_of(epoch, 0)[1][0] for epoch in range(60)}
    assert phases == set(range(7))  # 40 frames, every third: 14, 13, 13 with the first at 0, 1, 2, of which 12


def test_draws_are_keyed(scenes):
    def drawn(seed=3, epochs=range(8), **settings):
        data = dataset(scenes, "keyframes", training=True, seed=seed, num_views=4, **settings)
        return [data.frames_of(epoch, index)[1] for epoch in epochs for index in range(3)]

    assert drawn() == drawn()
    assert drawn() != drawn(seed=4)
    assert drawn(epochs=[0] * 8) != drawn()
    evaluation = dataset(scenes, "keyframes")
    assert evaluation.frames_of(0, 0) == evaluation.frames_of(7, 0)
    few = dataset(scenes, "keyframes", training=True, indices=range(2, 3))
    assert few[5, 0]["sample_index"] == 2
    torch.testing.assert_close(few[5, 0]["images"], dataset(scenes, "keyframes", training=True)[5, 2]["images"])


@pytest.mark.parametrize("mode", ["keyframes", "interpolation", "interval", "frames", "mixed"])
def test_sample_ids_are_unique_and_fit_for_folders(scenes, mode):
    data = dataset(scenes, mode, interval=2)
    ids = [data[i]["sample_id"] for i in range(len(data))]
    assert len(set(ids)) == len(ids) > 1
    assert all(name.replace("_", "").isalnum() for name in ids)


def test_a_pair_without_frames_between_is_no_interpolation(tmp_path):
    path = write_scene(tmp_path / "c", num_frames=30, key_every=2)
    np.save(path / "valid_frames.npy", [frame for frame in range(30) if frame != 5])
    assert [slot.start for slot in dataset([ScanNetScene(path)], "interpolation").slots][:4] == [0, 1, 3, 4]
    path = write_scene(tmp_path / "d", num_frames=30, key_every=1)
    data = dataset([ScanNetScene(path)], "mixed")
    assert (len(data), data.left_out) == (0, {"no frame between its key frames": 1})


def test_sequences(scenes):
    full = full_sequence(scenes[1], 6, 8)
    assert full.frame_ids == list(range(100, 131))
    assert full.key_ids == scenes[1].key_frames == [full.frame_ids[i] for i in full.key_positions]
    assert full_sequence(scenes[1], 6, 8, max_between=1).frame_ids[:5] == [100, 102, 103, 105, 106]
    fourth = full_sequence(scenes[1], 6, 8, interval=2)  # key frames are 3 apart: the second frame after each
    assert fourth.frame_ids == sorted([*fourth.key_ids, *(key + 2 for key in fourth.key_ids[:-1])])
    assert key_sequence(scenes[0], 6, 8).frame_ids == list(range(0, 40, 3))
    assert interval_sequence(scenes[0], 6, 8, interval=15).key_ids == [0, 15, 30]
    frame = full.frame(7)
    assert (frame.number, frame.image.shape, frame.depths.shape) == (107, (3, 6, 8), (6, 8))
    assert full.prompt(7) == "frame 107"
    torch.testing.assert_close(frame.R, torch.from_numpy(pose_of(107)[:3, :3]))
    centre = unproject(torch.tensor([3.5, 2.5]), frame.depths[2, 3], frame.K, frame.R, frame.t)
    pose = pose_of(107)  # the middle pixel looks straight ahead
    expected = torch.from_numpy(pose[:3, 3] + 1.107 * pose[:3, 2])
    torch.testing.assert_close(centre, expected, rtol=0, atol=1e-6)
    sample = full.sample([0, 3, 1], known=[3])
    assert sample["prompts"] == ["frame 100", "frame 103", "frame 101"]
    assert sample["known"][:, 0, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("frames", "keys", "text"),
    [
        ([2, 1], [], "frame_ids must be ascending, each once"),
        ([1, 2], [3], "frame_ids must be at least one frame and hold all key_ids"),
        ([], [], "frame_ids must be at least one frame"),
    ],
)
def test_sequence_errors(scenes, frames, keys, text):
    with pytest.raises(ValueError, match=text):
        FrameSequence(scenes[0], frames, keys, 6, 8)


def test_sequences_of_no_size_or_fewer_than_no_frames(scenes):
    with pytest.raises(ValueError, match="height must be at least 1; got 0"):
        key_sequence(scenes[0], 0, 8)
    with pytest.raises(ValueError, match="width must be at least 1; got -8"):
        key_sequence(scenes[0], 6, -8)
    with pytest.raises(ValueError, match="max_between must be at least 1; got -1"):
        full_sequence(scenes[0], 6, 8, max_between=-1)
    with pytest.raises(ValueError, match="interval must be at least 1; got 0"):
        full_sequence(scenes[0], 6, 8, interval=0)


def test_full_is_all_key_frames_and_all_between(scenes):
    data = dataset(scenes, "full", num_views=3, max_between=1)
    assert [data.frames_of(0, i)[1] for i in range(2)] == [list(range(40)), list(range(100, 131))]
    some = dataset(scenes, "full", full_interval=2)
    assert some.frames_of(0, 0)[1] == full_sequence(scenes[0], 6, 8, interval=2).frame_ids
    sample = data[1]
    assert sample["sample_id"] == "b_full_100"
    assert sample["images"].shape == (31, 3, 6, 8)
    assert not sample["known"].any()
    assert sample["prompts"][7] == "frame 107"


def test_mixed_evaluates_no_pair_twice(tmp_path):
    path = write_scene(tmp_path / "e", num_frames=60, key_every=None)
    keys = [0, *range(5, 60)]  # frames between the first pair alone
    (path / "key_frame_0.6.txt").write_text("".join(f"{frame}\n" for frame in keys))
    scene = ScanNetScene(path)
    samples = [data.frames_of(0, i)[0] for data in [dataset([scene], "mixed")] for i in range(len(data))]
    assert [(slot.mode, slot.start) for slot in samples if slot.mode == "interpolation"] == [("interpolation", 0)]
    assert len(samples) == 1 + 5
    windows = dataset([scene], "mixed", training=True, train_samples="windows")
    assert len(windows) == 2 * 5  # in training the two stay 1:1


def test_captions_of_key_frames_alone_are_not_enough_without_a_word(tmp_path):
    path = write_scene(tmp_path / "f", key_every=2)
    for frame in range(1, 24, 2):
        (path / "prompt" / f"{frame}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r'Set missing_caption to "nearest" .*data caption .* --every 1`'):
        dataset([ScanNetScene(path)], "mixed")
    nearest = dataset([ScanNetScene(path, missing_caption="nearest")], "mixed")
    assert nearest.missing_captions == 12
    assert dataset([ScanNetScene(path)], "keyframes").missing_captions == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "all"}, "mode must be one of keyframes, interpolation, interval, mixed, frames, full; got 'all'"),
        ({"mode": "full", "training": True}, 'mode must give short samples in training; got "full"'),
        ({"train_samples": "all"}, "train_samples must be one of every_frame, windows; got 'all'"),
        ({"num_views": 0}, "num_views must be at least 1; got 0"),
        ({"interval": 0}, "interval must be at least 1; got 0"),
        ({"max_between": 0}, "max_between must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range(scenes, settings, text):
    with pytest.raises(ValueError, match=text):
        FrameDataset(scenes, **settings)
    with pytest.raises(ValueError, match="interval must be at least 1; got 0"):
        interval_sequence(scenes[0], interval=0)
