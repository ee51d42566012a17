"""What multi-view training keeps on disk: embeddings of texts and latents of views, each under all it depends on."""

import dataclasses

import pytest
import torch
from lightning.pytorch import Trainer

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.settings import CacheSettings
from mvdiff.training.inputs import MultiViewInputs
from tests.training.test_multi_view import PREFIX, RIG, awaken, batch_of, make


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2)


@pytest.fixture(scope="module")
def module(tiny_folder):
    return awaken(make(tiny_folder))


def test_text_is_encoded_in_one_batch_without_a_cache_and_once_with_one(module, tmp_path):
    cached = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path), latents=False))
    prompts, sizes = [["a red lamp", "a blue table", "a red lamp"], ["a blue table", None, "a lamp"]], []
    handle = module.backbone.text_encoder.register_forward_hook(lambda encoder, _, output: sizes.append(len(output[0])))
    module.inputs.text(prompts)
    assert sizes == [6]
    sizes.clear()
    for _ in range(2):
        cached.text(prompts)
    handle.remove()
    assert sizes == [1] * 4


def test_text_cache_gives_the_same_embeddings(module, tmp_path):
    cached = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path), latents=False))
    prompts = [["a red lamp", "a blue table", "a red lamp"]]
    for _ in range(2):
        torch.testing.assert_close(cached.text(prompts), module.inputs.text(prompts))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_cache_tells_precisions_apart(module, tmp_path):
    cached = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path), latents=False))
    with torch.autocast("cpu", torch.bfloat16):
        rough = cached.text([["a red lamp"]])
    exact = cached.text([["a red lamp"]])
    torch.testing.assert_close(exact, module.inputs.text([["a red lamp"]]))
    assert not torch.equal(rough.float(), exact)


def test_latents_are_cached_per_sample_yaw_and_mirror(module, tiny_folder, tmp_path):
    data = EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2, yaw=[0, 90], mirror=True)
    dataset = data.train_dataset()
    cached = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path), latents=True))
    shown = {}
    for epoch in range(12):
        sample = dataset[(epoch, 0)]
        latents = cached.latents(MultiViewBatch.collate([sample]))
        key = (sample["yaw_deg"], sample["mirrored"])
        assert torch.equal(latents, shown.setdefault(key, latents))
    assert len(shown) == len(list(tmp_path.rglob("*.safetensors"))) == 4
    values = [latents.sum().item() for latents in shown.values()]
    assert len(set(values)) == 4
    fresh = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path / "fresh"), latents=True))
    batch = MultiViewBatch.collate([dataset[(0, 0)]])
    assert torch.equal(fresh.latents(batch), cached.latents(batch))


def test_caching_latents_of_random_yaws_is_refused(tiny_folder, data, tmp_path):
    module = make(tiny_folder, cache=CacheSettings(dir=str(tmp_path), latents=True))
    trainer = Trainer(
        logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=1, use_distributed_sampler=False
    )
    with pytest.raises(ValueError, match=r"data\.yaw must be a list of degrees when model.cache.latents is true"):
        trainer.fit(module, datamodule=data)


def test_cached_latents_of_worlds_that_share_names_stay_apart(module, data, tmp_path):
    cached = MultiViewInputs(module.backbone, 0, PREFIX, CacheSettings(dir=str(tmp_path), latents=True))
    batch = batch_of(data, (0, 0))
    other = dataclasses.replace(batch, images=batch_of(data, (0, 1)).images)  # the same id, yaw and cameras
    first, second = cached.latents(batch), cached.latents(other)
    assert not torch.allclose(first, second)
    assert torch.equal(cached.latents(batch), first)
    assert torch.equal(cached.latents(other), second)
