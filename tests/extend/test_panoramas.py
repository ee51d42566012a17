"""docs/extend.md, "A panorama layout"."""

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.geometry.cameras import RingRig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import perspective_from_equirectangular
from tests.extend.taking_through import take_through
from tests.training.tiny_run import tiny_config

SOURCE = {"class_path": "my_panoramas.MyPanoramas", "init_args": {"article": "the"}}
RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
NOISE = {
    split: np.random.default_rng(seed).integers(0, 256, (3, 32, 64, 3), np.uint8)
    for seed, split in enumerate(("train", "test"))
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for split, images in NOISE.items():
        np.savez(folder / f"{split}.npz", images=images, captions=[f"{split} room {i}" for i in range(3)])
    return folder


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(folder / "tiny")
    settings = {"root": str(root), "source": SOURCE, "rig": config["data"]["init_args"]["rig"], "num_val": 1}
    data = {"class_path": "mvdiff.data.datamodule.PanoramaDataModule", "init_args": settings}
    return take_through(folder / "panoramas", config | {"data": data})


def test_check_reads_it(root, capsys):
    assert main(["data", "check", str(root), "--data", "my_panoramas.MyPanoramas"]) == 0
    said = capsys.readouterr().out
    assert "MyPanoramas layout; panoramas: 3 in train, 3 in test" in said
    assert main(["data", "check", str(root / "nowhere"), "--data", "my_panoramas.MyPanoramas"]) == 1
    assert "nowhere" in capsys.readouterr().out


@pytest.mark.parametrize(("yaw_deg", "column"), [(0.0, 31.5), (90.0, 47.5), (-90.0, 15.5)])
def test_a_view_at_yaw_90_shows_what_lies_to_the_right(root, yaw_deg, column):
    from my_panoramas import MyPanoramas

    source = MyPanoramas(root, "test")
    columns = torch.arange(64.0).expand(3, 32, 64).movedim(0, -1)
    source.arrays = {"images": columns.to(torch.uint8).numpy()[None]}
    K, R = intrinsics_from_fov(90.0, 8, 8), rotation_from_yaw_pitch(yaw_deg, 0.0)
    view = (source.views(0, K[None], R[None], 8, 8)[0, 0] + 1) * 127.5
    assert float(view.mean()) == pytest.approx(column, abs=0.01)
    assert (view.diff(dim=1) > 0).all()  # not mirrored


def test_the_real_views_are_those_of_the_class(run):
    K, R = RIG.cameras()
    for index in range(3):
        image = torch.from_numpy(NOISE["test"][index]).movedim(-1, 0).double() / 127.5 - 1
        cut = perspective_from_equirectangular(image, K.double(), R.double(), 16, 16)
        expected = ((cut + 1) * 127.5).round().clamp(0, 255)
        assert (run.views("real", f"test_{index:04d}").double() - expected).abs().max() <= 1


def test_samples_have_its_ids_and_captions(run):
    from mvdiff.samples import find_samples, read_sample

    samples = [read_sample(folder) for folder in find_samples(run.folder / "generated")]
    assert [sample.record.sample_id for sample in samples] == [f"test_{index:04d}" for index in range(3)]
    assert [sample.record.prompts[0] for sample in samples] == [f"the test room {index}" for index in range(3)]
    assert samples[0].record.rig == RIG.to_dict()
    assert run.results["generated"]["num_samples"] == run.results["reference"]["num_samples"] == 3
    assert run.described("mvdiff.json")["training"]["data"] == "PanoramaDataModule"
    assert "the test room 0" in run.page
