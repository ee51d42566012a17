"""What runs of the depth task leave behind, and that they see what generation sees."""

import inspect

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.checkpoint import export_checkpoint
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.samples import find_samples, read_sample, to_uint8
from mvdiff.settings import Sampling
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.settings import OutputSettings
from tests.training.test_depth import make, trainer
from tests.training.test_multi_view import awaken
from tests.training.tiny_depth import WallData, tiny_depth_base, wall_batch


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_depth_base(tmp_path_factory.mktemp("depth"))


def attached(base, folder, **settings):
    """A module that knows its data, as in a run."""
    module = awaken(make(base, **settings))
    module.trainer = trainer(folder, 1)
    module.trainer.datamodule = WallData()
    return module


@pytest.fixture
def calls(monkeypatch):
    """What multi-view UNets are given, call by call."""
    noted, forward = [], MultiViewUNet.forward

    def noting(self, *inputs, **kwargs):
        noted.append(inspect.signature(forward).bind(self, *inputs, **kwargs).arguments)
        return forward(self, *inputs, **kwargs)

    monkeypatch.setattr(MultiViewUNet, "forward", noting)
    return noted


def generate(module, batch):
    return module.pipeline().generate(batch, Sampling(num_inference_steps=1, guidance_scale=1.0), decode=False)


@pytest.mark.parametrize("index", [0, 1], ids=["generation", "interpolation"])
@torch.no_grad()
def test_training_and_generation_give_the_unet_the_same(base, tmp_path, calls, index):
    module, batch = attached(base, tmp_path), wall_batch(index)
    module.noise_loss(batch, batch.prompts)
    generate(module, batch)
    trained, generated = calls
    assert torch.equal(trained["sample"][:, :, 4:], generated["sample"][:, :, 4:])
    # Texts are encoded in batches of other sizes, which some CPUs sum in another order.
    torch.testing.assert_close(trained["encoder_hidden_states"], generated["encoder_hidden_states"])
    assert torch.equal(trained["view_valid"], generated["view_valid"])
    for one, other in zip(trained["geometry"].levels, generated["geometry"].levels, strict=True):
        assert all(
            torch.equal(getattr(one, name), getattr(other, name)) for name in ("cells", "visible", "displacement")
        )
    if index == 0:  # under gradients an inactive condition gives exact zeros: see tests/models/test_conditioning.py
        assert generated["condition"] is None
        assert trained["condition"] is None
        return
    assert trained["condition_active"].tolist() == generated["condition_active"].tolist() == [True]
    one, other = trained["condition"], generated["condition"]
    assert torch.equal(one[:, :, 4], other[:, :, 4])
    assert torch.equal(one[:, 1:-1], other[:, 1:-1])
    clean = module.backbone.encode_images(batch.images[0])  # each draws its own noise of the autoencoder around it
    spread = (one[0, [0, -1], :4] - clean[[0, -1]]).abs().max()
    assert (other[0, [0, -1], :4] - clean[[0, -1]]).abs().max() < 3 * spread


def test_validation_shows_both_modes(base, tmp_path):
    fit = trainer(tmp_path, 4, val_check_interval=4)
    fit.fit(make(base, num_validation_samples=2), datamodule=WallData())
    assert 0 < fit.callback_metrics["val/overlap_psnr"] < 60
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["val_samples_4.png"]


def run(base, folder, epochs, ckpt_path=None):
    settings = {"save_top_k": -1, "save_last": True, "save_on_train_epoch_end": True}
    saver = ModelCheckpoint(folder, filename="{epoch}", auto_insert_metric_name=False, **settings)
    fit = trainer(
        folder,
        -1,
        max_epochs=epochs,
        enable_checkpointing=True,
        callbacks=[TrainedWeightsEMA(decay=0.8), saver],
        check_val_every_n_epoch=100,
    )
    module = make(base, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
    fit.fit(module, datamodule=WallData(), ckpt_path=ckpt_path, weights_only=True)
    return module


def test_a_resumed_run_ends_bit_for_bit_and_its_checkpoint_becomes_a_model(base, tmp_path):
    whole = run(base, tmp_path / "whole", epochs=2)
    resumed = run(base, tmp_path / "resumed", epochs=2, ckpt_path=tmp_path / "whole" / "0.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])

    checkpoint = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"adapter.{name}" for name in whole.adapter.state_dict()}
    assert any(name.startswith("adapter.condition_blocks.") for name in checkpoint["state_dict"])
    info = export_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "model")
    assert (info.task.name, info.views) == ("depth", {"height": 24, "width": 32})
    loaded = MVDiffusionDepthPipeline.from_pretrained(tmp_path / "model")
    assert all(
        torch.equal(value, whole.adapter.state_dict()[name]) for name, value in loaded.adapter.state_dict().items()
    )
    whole.save_model_folder(tmp_path / "again")
    assert MVDiffusionDepthPipeline.from_pretrained(tmp_path / "again").height == 24


def test_test_writes_generated_and_real_frames_and_scores_them(base, tmp_path):
    settings = {"output": OutputSettings(dir=str(tmp_path / "out"), metrics=["overlap_psnr"])}
    data = WallData()
    data.test_dataloader = data.predict_dataloader = data.val_dataloader
    (numbers,) = trainer(tmp_path, 1).test(make(base, **settings), data, verbose=False)
    assert 5 < numbers["test/overlap_psnr_mean_of_pairs"] < 30
    real, made = (find_samples(tmp_path / "out" / name) for name in ("reference", "generated"))
    assert [folder.name for folder in real] == [folder.name for folder in made] == [f"wall{i}" for i in range(100, 104)]
    batch = wall_batch(100, 101)
    for i, folder in enumerate(real[:2]):
        sample, valid = read_sample(folder), batch.view_valid[i]
        assert torch.equal(sample.images_uint8(), to_uint8(batch.images[i][valid]))
        assert torch.equal(sample.record.translations(), batch.t[i][valid])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    trainer(tmp_path, 1).test(make(base, **settings), data, verbose=False)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    other = WallData("interpolation")
    other.test_dataloader = other.val_dataloader
    with pytest.raises(ValueError, match="wall100 was made with another prompt"):
        trainer(tmp_path, 1).test(make(base, **settings), other, verbose=False)
    trainer(tmp_path, 1).predict(make(base, output=OutputSettings(dir=str(tmp_path / "predicted"))), data)
    assert len(find_samples(tmp_path / "predicted")) == 4
