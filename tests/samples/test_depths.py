"""Samples with depth and poses: what is written comes back, and nothing of an earlier sample stays."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry import rotation_from_yaw_pitch
from mvdiff.samples import SampleRecord, SampleWriter, camera_record, find_samples, read_sample, scan_samples
from mvdiff.samples import write_sample as write

HEIGHT, WIDTH = 6, 10


def cameras(num_views):
    K = torch.tensor([[8.0, 0.5, 4.5], [0, 9.0, 2.5], [0, 0, 1]]).expand(num_views, 3, 3)
    R = rotation_from_yaw_pitch(10.0 * torch.arange(num_views), torch.zeros(num_views))
    t = torch.tensor([[0.1, -2.0, 30.0]]) * torch.arange(1, num_views + 1)[:, None]
    return K, R, t


def record(num_views=2):
    return SampleRecord("walk", ["a sofa"] * num_views, cameras=camera_record(*cameras(num_views), HEIGHT, WIDTH))


def images(num_views=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_views, HEIGHT, WIDTH, 3), dtype=np.uint8)


def depths(num_views=2, seed=0):
    values = np.random.default_rng(seed).uniform(0.2, 9.0, (num_views, HEIGHT, WIDTH))
    values[:, 1, 2] = 0
    return values


@pytest.mark.parametrize("num_views", [1, 2])
def test_write_and_read_back(tmp_path, num_views):
    metres = depths(num_views)
    folder = write(tmp_path / "walk", record(num_views), images(num_views), depths=torch.from_numpy(metres))
    sample = read_sample(folder)
    found = sample.depths()
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - metres).max() <= 0.0005 + 1e-6
    assert (found[:, 1, 2] == 0).all()
    _, _, t = cameras(num_views)
    assert sample.record.translations().dtype == torch.float32
    torch.testing.assert_close(sample.record.translations(), t)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    pictures = [f"{kind}{i}.png" for i in range(num_views) for kind in ("", "depth/")]
    assert names == sorted([*pictures, "depth", "sample.json"])


def test_golden_millimetres_on_disk(tmp_path):
    values = np.zeros((1, HEIGHT, WIDTH))
    values[0, 0, :6] = [1.2344, 1.2346, 65.534, np.nan, np.inf, 0.0]
    folder = write(tmp_path / "s", record(1), images(1), depths=values)
    with Image.open(folder / "depth" / "0.png") as image:
        stored = np.array(image)
    assert stored[0, :6].tolist() == [1234, 1235, 65534, 0, 0, 0]
    assert stored.shape == (HEIGHT, WIDTH)


def test_samples_without_depth_or_centres(tmp_path):
    sample = read_sample(write(tmp_path / "s", SampleRecord("s", ["a", "b"]), images()))
    assert sample.depths() is None
    assert sample.record.translations() is None
    half = record()
    del half.cameras["views"][1]["t"]
    with pytest.raises(ValueError, match="t for every view or for none; got 1 of 2, in sample 'walk'"):
        half.translations()


def test_overwriting_removes_stale_depth(tmp_path):
    folder = write(tmp_path / "s", record(), images(), depths=depths())
    write(folder, record(), images(seed=1), overwrite=True)
    assert not (folder / "depth").exists()
    write(folder, record(), images(), depths=depths(), overwrite=True)
    write(folder, record(1), images(1), depths=depths(1), overwrite=True)
    assert [path.name for path in (folder / "depth").iterdir()] == ["0.png"]


def test_depth_maps_are_no_samples_of_their_own(tmp_path):
    write(tmp_path / "b", record(), images(), depths=depths())
    killed = SampleWriter(tmp_path / "a")
    killed.add(0, images()[0], depths()[0])
    assert find_samples(tmp_path) == [tmp_path / "b"]
    assert scan_samples(tmp_path) == ([tmp_path / "b"], [tmp_path / "a"])


def test_missing_and_broken_depths_are_named(tmp_path):
    folder = write(tmp_path / "s", record(), images(), depths=depths())
    path = folder / "depth" / "1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:30])
    with pytest.raises(ValueError, match=r"depth .*1\.png cannot be read"):
        read_sample(folder).depths()
    Image.fromarray(images()[0]).save(path)
    with pytest.raises(ValueError, match=r"must be a 16-bit PNG with one channel; got uint8 of shape \(6, 10, 3\)"):
        read_sample(folder).depths()
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"views of a sample must have one size; got \[6, 10\] and \[3, 4\]"):
        read_sample(folder).depths()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png missing"):
        read_sample(folder).depths()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (depths() + 57, r"depths must lie in \[0, 65.534\] metres; got .* in sample 'walk'"),
        (depths() - 1, r"depths must lie in \[0, 65.534\] metres; got -"),
        (depths(1), r"depths must have the shape of the views, \[2, 6, 10\]; got \[1, 6, 10\]"),
        (depths()[:, :5], r"depths must have the shape of the views, \[2, 6, 10\]; got \[2, 5, 10\]"),
    ],
)
def test_wrong_depths_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "s", record(), images(), depths=wrong)
    assert not (tmp_path / "s").exists()


def test_view_by_view_is_the_same_as_at_once(tmp_path):
    whole = write(tmp_path / "whole", record(3), images(3), depths=depths(3))
    writer = SampleWriter(tmp_path / "parts")
    for view in (2, 0, 1):
        writer.add(view, images(3)[view], depths(3)[view])
        assert not find_samples(tmp_path / "parts")
    writer.finish(record(3))
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((whole / name).read_bytes() == (tmp_path / "parts" / name).read_bytes() for name in files)


def test_a_sample_with_a_gap_is_not_completed(tmp_path):
    writer = SampleWriter(tmp_path / "s")
    for view in (0, 2):
        writer.add(view, images()[0])
    with pytest.raises(ValueError, match=r"views must be added from 0 to 1; got \[0, 2\]"):
        writer.finish(record())
    with pytest.raises(ValueError, match=r"prompts must be one per view \(2\); got 3"):
        writer.finish(record(3))
    assert not find_samples(tmp_path)
