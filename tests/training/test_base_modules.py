"""Autoencoder and judge: real fits of a few steps on a few rooms."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from torch.multiprocessing import start_processes

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.autoencoder import load_autoencoder
from mvdiff.training.autoencoder import AutoencoderModule
from mvdiff.training.features import FeatureNetModule
from tests.tiny import tiny_base

VAE = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_toyworld(tmp_path_factory.mktemp("world"), rooms=4, seed=2, size=32, test_rooms=1, num_frames=0)


def data(world: Path, **settings) -> Matterport3DDataModule:
    rig = RingRig(num_views=2, fov_deg=90, height=16, width=24)
    return Matterport3DDataModule(
        str(world / "mp3d_skybox"),
        rig,
        **({"batch_size": 2, "num_val": 1, "val_from": "test"} | settings),
    )


def trainer(folder: Path, steps: int) -> Trainer:
    return Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )


def test_autoencoder_learns_and_writes_latents_of_unit_variance(world, tmp_path):
    torch.manual_seed(0)
    module = AutoencoderModule(
        out=str(tmp_path / "vae"), vae=VAE, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3)
    )
    fit = trainer(tmp_path, 40)
    fit.validate(module, data(world), verbose=False)
    before = float(fit.callback_metrics["val/psnr"])
    fit = trainer(tmp_path, 40)
    fit.fit(module, data(world))
    assert float(fit.callback_metrics["val/psnr"]) > before + 2
    vae = load_autoencoder(tmp_path / "vae")
    images = data(world).test_dataset()[0]["images"]
    latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    assert 0.7 < float(latents.detach().var()) < 1.4


def test_autoencoder_may_keep_its_latent_space(world, tmp_path):
    folder = tiny_base(tmp_path / "base") / "vae"
    module = AutoencoderModule(out=str(tmp_path / "vae"), pretrained=str(folder), train_encoder=False)
    trainer(tmp_path, 2).fit(module, data(world))
    before, after = load_autoencoder(folder), load_autoencoder(tmp_path / "vae")
    assert after.config.scaling_factor == before.config.scaling_factor
    for name, value in before.state_dict().items():
        kept = name.startswith(("encoder", "quant_conv"))
        assert torch.equal(value, after.state_dict()[name]) == kept or (not kept and "norm" in name), name


def test_autoencoder_wants_a_config_or_a_folder():
    with pytest.raises(ValueError, match=r"model.vae and model.pretrained: exactly one must be set"):
        AutoencoderModule(out="x")


def test_autoencoder_is_loaded_whole_or_not_at_all(tmp_path):
    folder = tiny_base(tmp_path / "base") / "vae"
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"match the AutoencoderKL .*1 missing keys, such as decoder.conv_in"):
        AutoencoderModule(out="x", pretrained=str(folder))
    weights.unlink()
    AutoencoderTiny(encoder_block_out_channels=[8] * 4, decoder_block_out_channels=[8] * 4).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"model.pretrained must be an AutoencoderKL; got AutoencoderTiny, in .*vae"):
        AutoencoderModule(out="x", pretrained=str(folder))


def test_scaling_factor_is_that_of_all_ranks(world, tmp_path):
    torch.manual_seed(0)
    module, dataset = AutoencoderModule(out="x", vae=VAE).eval(), data(world).train_dataset()
    batches = [MultiViewBatch.collate([dataset[i]]) for i in range(2)]
    start_processes(factor_of_rank, (module, batches, tmp_path), nprocs=2, start_method="fork")
    alone = []
    for batch in batches:
        module.on_validation_epoch_start()
        with torch.no_grad():
            module.validation_step(batch, 0)
        alone.append(module.scaling_factor())
    with torch.no_grad():
        module.validation_step(batches[0], 0)  # after batch 1: now both
    for rank in range(2):
        assert float((tmp_path / f"rank{rank}").read_text()) == pytest.approx(module.scaling_factor(), abs=1e-4)
    assert len({*alone, module.scaling_factor()}) == 3


def factor_of_rank(rank: int, module: AutoencoderModule, batches: list[MultiViewBatch], folder: Path) -> None:
    """Validate one batch per rank and note the scaling factor that the rank finds."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with torch.no_grad():
        module.validation_step(batches[rank], 0)
    (folder / f"rank{rank}").write_text(str(module.scaling_factor()))
    torch.distributed.destroy_process_group()


def test_judge_learns_the_facts_at_multiples_of_45_degrees_only(world, tmp_path):
    root = str(world / "mp3d_skybox")
    module = FeatureNetModule(
        root, str(tmp_path / "net"), width=8, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3)
    )
    fit = trainer(tmp_path, 60)
    fit.fit(module, data(world, yaw=[0, 180], val_from="train", num_val=1))
    net = ToyFeatureNet.from_pretrained(tmp_path / "net")
    batch = MultiViewBatch.collate([data(world, yaw=[0, 180], num_val=0).train_dataset()[0]])
    labels = module.labels(batch)
    read = net.predict(batch.images[0])
    assert read["walls"] == [net.labels["walls"][i] for i in labels["walls"]]
    turned = MultiViewBatch.collate([data(world, yaw=[30], num_val=0).train_dataset()[0]])
    with pytest.raises(ValueError, match=r"data\.yaw must be multiples of 45 degrees"):
        module.labels(turned)


def test_judges_labels_follow_the_yaw(world, tmp_path):
    """Turning the panorama by 45 degrees gives view 0 the facts that view 1 of a ring of eight had."""
    module = FeatureNetModule(str(world / "mp3d_skybox"), str(tmp_path))

    def labels(yaw: int) -> torch.Tensor:
        rig = RingRig(num_views=8, fov_deg=90, height=16, width=16)
        module_data = Matterport3DDataModule(str(world / "mp3d_skybox"), rig, yaw=[yaw], num_val=0)
        return module.labels(MultiViewBatch.collate([module_data.train_dataset()[0]]))["object"]

    still, turned = labels(0), labels(45)
    assert torch.equal(turned, still.roll(-1))
    assert not torch.equal(turned, still)
