"""Views that are cut on the device of the training: the same numbers, from fewer bytes."""

from dataclasses import fields

import pytest
import torch

from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.pictures import with_views
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.panorama_content import PanoramaViews
from mvdiff.data.shards.writing import write_shards
from mvdiff.data.whole_panoramas import WholePanoramaDataModule
from mvdiff.geometry.cameras import RingRig
from tests.data.folders import write_equirectangular, write_matterport3d

RIG = RingRig(num_views=4, height=24, width=16)
HOW = {"num_val": 1, "seed": 3, "mirror": True, "known": "mixed", "batch_size": 2}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    faces = write_matterport3d(root / "faces", num_train=5, num_test=1)
    write_shards(image_content(faces), root / "shards", 30_000)
    return {"faces": faces, "shards": root / "shards", "whole": write_equirectangular(root / "whole")}


@pytest.mark.parametrize(("name", "workers"), [("faces", 0), ("shards", 2), ("whole", 0)])
def test_views_cut_later_are_the_same_bit_for_bit(roots, name, workers):
    cls = EquirectangularDataModule if name == "whole" else Matterport3DDataModule
    data = cls(roots[name], RIG, **HOW)
    later = cls(roots[name], RIG, **HOW, cut_on_device=True, num_workers=workers)
    mirrored = []
    for epoch in range(2):
        loaders = data.train_dataloader(), later.train_dataloader()
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for one, batch in zip(*loaders, strict=True):
            assert batch.images.untyped_storage().nbytes() == 4, "no views travel"
            assert {picture.dtype for picture in batch.pictures} == {torch.uint8}
            other = later.on_after_batch_transfer(batch.to("cpu"), 0)
            for field in fields(one):
                a, b = getattr(one, field.name), getattr(other, field.name)
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
            mirrored += one.mirrored.tolist()
    assert set(mirrored) == {True, False}
    assert later.val_dataset()[0]["images"].abs().max() > 0, "evaluation cuts as always"


def test_pictures_of_several_sizes_share_a_batch(roots):
    data = Matterport3DDataModule(roots["faces"], RIG, **HOW, cut_on_device=True)
    batch = next(iter(data.train_dataloader()))
    batch.pictures[1] = batch.pictures[1][:, :, ::2, ::2]
    cut = with_views(batch)
    assert cut.images.shape == (2, 4, 3, 24, 16)
    assert torch.equal(cut.images[0], with_views(batch.rows([0])).images[0])
    assert {picture.device.type for picture in batch.to("meta").pictures} == {"meta"}
    assert with_views(cut) is cut


def test_what_has_no_picture_to_send_is_refused(roots, tmp_path):
    source = Matterport3DDataModule(roots["faces"], RIG, num_val=0).source("train")
    write_shards(PanoramaViews({"train": source}, {}, Cuts(RIG, (0.0,))), tmp_path, 10**6)
    with pytest.raises(ValueError, match="cut_on_device must be false, since ShardViews"):
        Matterport3DDataModule(tmp_path, RIG, num_val=0, yaw=[0], cut_on_device=True).train_dataset()
    with pytest.raises(ValueError, match="cut_on_device must be false for whole panoramas"):
        WholePanoramaDataModule(roots["faces"], cut_on_device=True)
