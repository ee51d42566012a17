"""The data module of scenes: splits, what is left out, and runs that resume exactly."""

import logging
from types import SimpleNamespace

import pytest
import torch

from mvdiff.data.scannet_datamodule import ScanNetDataModule
from tests.data.folders import truncate
from tests.data.scenes import write_frame, write_scannet, write_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes of 24, 26, ... frames, every second a key frame: 12, 13, 14 | 15, 16 key frames."""
    return write_scannet(tmp_path_factory.mktemp("scannet"))


def module(root, **settings):
    return ScanNetDataModule(root, 6, 8, **{"num_val": 1, "seed": 5} | settings)


def seen(batches):
    return {
        (batch.epoch, batch.sample_index[i].item()): (
            batch.sample_id[i],
            batch.images[i].double().sum().item(),
            batch.known[i].sum().item(),
            tuple(batch.prompts[i]),
        )
        for batch in batches
        for i in range(batch.batch_size)
    }


def test_splits_hold_out_whole_scenes(root):
    data = module(root)
    data.setup("fit")
    train, val, test = data.train_dataset(), data.val_dataset(), data.test_dataset()
    assert [len(train), len(val), len(test)] == [12 + 13, 2, 4]
    assert len(module(root, train_samples="windows").train_dataset()) == 3
    assert {scene.name for scene in train.scenes} == {"scene0", "scene1"}
    assert [val[i]["sample_id"] for i in range(2)] == ["scene2_keyframes_0", "scene2_keyframes_4"]
    assert val[0]["prompts"][1] == "frame 2"
    assert data.eval_dataset("train")[1]["sample_id"] == "scene1_keyframes_0"
    from_test = module(root, val_from="test", max_val_samples=1)
    assert [len(from_test.train_dataset()), len(from_test.val_dataset())] == [12 + 13 + 14, 1]
    assert from_test.val_dataset()[0]["sample_id"] == "scene3_keyframes_0"
    few = module(root, max_samples=2, max_test_samples=1, num_val=0)
    assert [len(few.train_dataset()), len(few.test_dataset()), few.val_dataloader()] == [2, 1, []]
    assert (data.height, data.width, data.batch_size) == (6, 8, 1)


def test_evaluation_may_have_a_mode_of_its_own(root):
    data = module(root, mode="mixed", eval_mode="keyframes")
    train = data.train_dataset()
    assert {train.frames_of(0, i)[0].mode for i in range(2)} == {"keyframes", "interpolation"}
    assert {slot.mode for slot in data.test_dataset().slots} == {"keyframes"}


def test_frames_may_be_resized_as_the_2023_release_does(root):
    batch, released = (next(iter(module(root, resizing=rule).test_dataloader())) for rule in ("exact", "released"))
    torch.testing.assert_close(
        released.K[..., 0, 2] - batch.K[..., 0, 2], torch.full((1, 12), 0.375)
    )  # (1 - 8 / 32) / 2
    with pytest.raises(ValueError, match=r"resizing must be .*; got 'plain'"):
        module(root, resizing="plain")


def test_whole_sequences_are_for_evaluation(root):
    data = module(root, eval_mode="full")
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [batch.num_views for batch in batches] == [29, 31]  # key frames are the even ones of 30 and 32
    assert [batch.sample_id for batch in batches] == [["scene3_full_0"], ["scene4_full_0"]]
    assert all(batch.view_valid.all() and not batch.known.any() for batch in batches)


@pytest.mark.parametrize("samples", ["every_frame", "windows"])
@pytest.mark.parametrize("mode", ["keyframes", "interpolation", "interval", "mixed", "frames"])
def test_samples_do_not_depend_on_ranks_workers_or_batches(root, mode, samples):
    settings = {"mode": mode, "interval": 2, "max_samples": 4, "train_samples": samples, "max_between": 1}
    settings |= {"num_views": 3} if mode == "mixed" else {}
    alone = seen(module(root, **settings).train_dataloader())
    assert len(alone) == 3 if samples == "windows" and mode in ("keyframes", "interval") else len(alone) == 4
    assert seen(module(root, num_workers=1, **settings).train_dataloader()) == alone
    assert seen(module(root, batch_size=3, **settings).train_dataloader()) == alone
    ranks = {}
    for rank in range(2):
        data = module(root, batch_size=2, **settings)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, accumulate_grad_batches=1)
        ranks |= seen(data.train_dataloader())
    assert ranks == alone


def test_batches_are_whole(root):
    batch = next(iter(module(root, mode="interpolation", batch_size=2).train_dataloader()))
    assert batch.images.shape == (2, 12, 3, 6, 8)
    assert batch.depths.shape == (2, 12, 6, 8)
    assert batch.known.shape == (2, 12, 1, 6, 8)
    assert batch.view_valid.sum(dim=1).tolist() == [3, 3]
    assert batch.t[0, 0].tolist() != [0, 0, 0]
    assert batch.K.dtype == batch.R.dtype == batch.t.dtype == batch.depths.dtype == torch.float32


def test_resume_goes_on_with_the_next_sample(root):
    whole = [seen([batch]) for batch in module(root, mode="mixed").train_dataloader()]
    data = module(root, mode="mixed")
    data.load_state_dict({"epoch": 0, "position": 4, "stride": 1})
    assert [seen([batch]) for batch in data.train_dataloader()] == whole[4:]


def test_what_is_left_out_is_counted_and_logged(tmp_path, caplog):
    root = write_scannet(tmp_path, num_train=2, num_test=1)
    write_scene(root / "train" / "short", num_frames=18)
    (root / "train" / "scene1" / "pose" / "4.txt").write_text("inf " * 16)
    (root / "train" / "scene1" / "prompt" / "6.txt").unlink()
    caplog.set_level(logging.WARNING)
    data = module(root, num_val=0, missing_caption="nearest")
    assert len(data.train_dataset()) == 12 + 12
    assert "left out: 1 scenes with fewer than 10 key frames" in caplog.text
    assert "frames left out: 1 x pose is not finite" in caplog.text
    assert "1 frames without caption; missing_caption is 'nearest'" in caplog.text
    assert [slot for slot in data.train_dataset().slots if slot.scene == 1]
    assert len(module(root, num_val=0, missing_caption="empty", min_frames=2).train_dataset()) == 12 + 12 + 9


def test_scenes_that_are_not_whole(tmp_path, caplog):
    root = write_scannet(tmp_path, num_train=3, num_test=1)
    (root / "train" / "scene1" / "key_frame_0.6.txt").unlink()
    (root / "train" / "scene2" / "intrinsic" / "intrinsic_depth.txt").write_text("60 0 32 0 60 24 0 0 1")
    with pytest.raises(FileNotFoundError, match=r"Run `mvdiff data keyframes .*scene1`"):
        module(root).setup("fit")
    assert len(module(root, mode="frames", on_broken="skip", num_val=0).scenes("train")) == 2
    data = module(root, on_broken="skip", num_val=0)
    assert [scene.name for scene in data.train_dataset().scenes] == ["scene0"]
    assert "2 of 3 scenes are left out, the first: " in caplog.text


@pytest.mark.parametrize("mode", ["keyframes", "interpolation", "interval", "mixed", "frames"])
def test_no_mode_meets_a_bad_pose_or_a_missing_file_in_mid_epoch(tmp_path, mode):
    root = write_scannet(tmp_path, num_train=1, num_test=1)
    scene = root / "train" / "scene0"
    write_frame(scene, 24)
    for frame in (1, 2, 9):
        (scene / "pose" / f"{frame}.txt").write_text("-inf " * 16)
    (scene / "depth" / "5.png").unlink()
    (scene / "color" / "6.png").unlink()
    if mode != "keyframes":  # which looks at its own frames only
        with pytest.raises(FileNotFoundError, match="must list complete frames"):
            module(root, mode=mode, num_val=0).setup("fit")
    data = module(root, mode=mode, num_val=0, on_broken="skip", interval=1, num_views=8)
    for epoch in range(3):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert not {f"frame {frame}" for frame in (1, 2, 5, 6, 9)} & set(batch.prompts[0])


def test_errors(root, tmp_path):
    with pytest.raises(ValueError, match=r"num_val must be below the number of training scenes \(3\); got 3"):
        module(root, num_val=3).setup("fit")
    with pytest.raises(ValueError, match="mode must be one of"):
        module(root, mode="all")
    with pytest.raises(ValueError, match="mode must be one of"):
        module(root, eval_mode="all")
    with pytest.raises(ValueError, match="mode must give short samples in training"):
        module(root, mode="full").setup("fit")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        module(root, batch_size=0)
    with pytest.raises(FileNotFoundError, match="train must be a folder of scenes"):
        module(tmp_path).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"data\.root must be a folder .*absent does not exist"):
        module(tmp_path / "absent").setup("fit")
    with pytest.raises(ValueError, match="must give at least one sample of mode 'keyframes'; got none of 2 scenes"):
        module(root, min_frames=20).setup("fit")
    broken = write_scannet(tmp_path)
    (broken / "train" / "scene0" / "prompt" / "2.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"2\.txt must hold a caption; it does not, nor do 0 more"):
        module(broken).setup("fit")


def test_a_damaged_image_is_one_clear_line(tmp_path):
    root = write_scannet(tmp_path, num_train=1)
    truncate(root / "train" / "scene0" / "color" / "4.png")
    with pytest.raises(ValueError, match=r"4\.png must be a whole image file"):
        list(module(root, num_val=0).train_dataloader())
