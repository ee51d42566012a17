"""Finetuning weights of the 2023 release: training takes its correspondences as generation does."""

import pytest
import torch
from diffusers import DDIMScheduler

from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.taps import UpstreamTaps
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.model_folder import BaseReference, ModelInfo, write_model_folder
from mvdiff.tasks.opening import task_from
from mvdiff.training.multi_view import MultiViewModule
from tests.interop.test_keys import DEPTH
from tests.interop.test_keys import RING as RING_SETTINGS
from tests.tiny import tiny_base
from tests.training.test_multi_view import EquirectangularDataModule, MultiViewBatch, awaken
from tests.training.tiny_depth import tiny_depth_base, wall_batch
from tests.training.tiny_run import tiny_panoramas

RING = RingRig(num_views=8, height=16, width=16)


def make(task, base, folder, text_dtype=None, **settings):
    adapter = MultiViewAdapter([32, 64], 64, [64, 32], **settings)
    views = {"height": 16, "width": 32} if task == "depth" else {"rig": RING}
    info = ModelInfo(task_from(task), views, "", BaseReference(str(base), text_dtype=text_dtype))
    write_model_folder(folder, adapter, DDIMScheduler(), info)
    module = MultiViewModule(task, base=str(base), init_adapter=str(folder), text_dtype=text_dtype)
    module.configure_model()
    return awaken(module)


def check(module, batch):
    """Loss and gradients are finite, the frequencies are no parameters but in the checkpoint."""
    assert isinstance(module.adapter.geometry(batch, 4).levels[0], UpstreamTaps)
    module.noise_loss(batch, batch.prompts).backward()
    gradients = {name: p.grad for name, p in module.adapter.named_parameters()}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert gradients["mid_block.norm1.bias"].abs().max() > 0  # the null token learns
    assert not any("freq_bands" in name for name in gradients)
    assert sum(name.endswith("freq_bands") for name in module.state_dict()) == 5


def test_panoramas(tmp_path):
    data = EquirectangularDataModule(tiny_panoramas(tmp_path / "data"), rig=RING, num_val=2)
    module = make("panorama", tiny_base(tmp_path / "base"), tmp_path / "adapter", **RING_SETTINGS)
    batch = MultiViewBatch.collate([data.train_dataset()[key] for key in ((0, 0), (0, 1))])
    check(module, batch)


def test_frames_with_depth(tmp_path):
    module = make("depth", tiny_depth_base(tmp_path), tmp_path / "adapter", **DEPTH)
    check(module, wall_batch(0, 1))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_half_precision_text_encoder(tmp_path, autocast):
    """It computes in its own precision also under autocast, and training must ask for it."""
    data = EquirectangularDataModule(tiny_panoramas(tmp_path / "data"), rig=RING, num_val=2)
    base = tiny_base(tmp_path / "base")
    module = make("panorama", base, tmp_path / "adapter", text_dtype="float16", **RING_SETTINGS)
    batch = MultiViewBatch.collate([data.train_dataset()[0]])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        text = module.inputs.text(batch.prompts)
        loss = module.noise_loss(batch, batch.prompts)
    assert text.dtype == torch.float32
    assert torch.equal(text, text.half().float())
    assert not torch.equal(text, text.bfloat16().float())
    assert torch.isfinite(loss)
    other = MultiViewModule("panorama", base=str(base), init_adapter=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"text_dtype must be that of .*init_adapter, float16; got null"):
        other.configure_model()
