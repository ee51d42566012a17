"""Autoencoder, judge and toy transformer: real fits of a few steps on a few rooms."""

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderTiny
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from torch.multiprocessing import start_processes

from mvdiff.batch import MultiViewBatch
from mvdiff.cli.train import run_trainer
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.geometry.cameras import RingRig
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.autoencoder import load_autoencoder
from mvdiff.models.backbone import load_backbone
from mvdiff.run_files import configs_folder
from mvdiff.settings import FlowSettings, LossSettings, Sampling
from mvdiff.training.autoencoder import AutoencoderModule
from mvdiff.training.controlnet import ControlNetModule
from mvdiff.training.features import FeatureNetModule
from mvdiff.training.single_view import SingleViewModule
from tests.models.test_fresh import TRANSFORMER, small_transformer
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


def test_the_transformers_loss_is_the_flow_loss_written_out(world):
    module = SingleViewModule(fresh=small_transformer(), out="unused", prompt_prefix="", seed=5)
    batch = MultiViewBatch.collate([data(world).train_dataset()[(3, 1)]])
    base, losses = module.backbone, []
    for view, prompt in enumerate(batch.prompts[0]):
        key = keyed_int("view", 1, view)
        latents = base.encode_images(batch.images[0, view, None], keyed_generator("latent", 5, 3, key))
        sigma = torch.sigmoid(torch.randn((), generator=keyed_generator("flow-timestep", 5, 3, key)))
        sigma = 2 * sigma / (1 + sigma)  # the shift of the scheduler
        noise = torch.randn(latents.shape[1:], generator=keyed_generator("noise", 5, 3, key, 0))[None]
        tokens = base.tokenizer([prompt], padding="max_length", return_tensors="pt")
        velocity = base.unet(
            (1 - sigma) * latents + sigma * noise,
            encoder_hidden_states=base.text_encoder(tokens.input_ids)[0],
            encoder_attention_mask=tokens.attention_mask,
            timestep=1000 * sigma[None],
        ).sample
        losses.append((velocity - (noise - latents)).square().mean())
    torch.testing.assert_close(module.noise_loss(batch, batch.prompts), torch.stack(losses).mean())


def test_the_transformers_config_trains_draws_and_writes_a_base(world, tmp_path):
    config = yaml.safe_load((configs_folder() / "toy/dit_base.yaml").read_text())
    own, trainer, out = config["model"]["init_args"], config["trainer"], tmp_path / "base"
    own["fresh"]["transformer"] |= TRANSFORMER
    own |= {"out": str(out), "num_validation_samples": 1, "out_dtype": "float32"}
    own["sampling"]["num_inference_steps"] = 2
    trainer |= {"max_steps": 2, "val_check_interval": 1, "num_sanity_val_steps": 0, "default_root_dir": str(tmp_path)}
    trainer["logger"] = False  # pictures go to files
    data = config["data"]["init_args"]
    data |= {"root": str(world / "mp3d_skybox"), "batch_size": 2, "num_val": 1}
    data["rig"]["init_args"] |= {"num_views": 2, "height": 16, "width": 16}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run_trainer(["fit", "--config", str(tmp_path / "run.yaml")])
    written, before = load_backbone(out), small_transformer().build(0)
    assert written.scheduler.config.shift == 2.0
    frozen = ["text_encoder", "vae"]
    assert written.weights_hashes(frozen) == before.weights_hashes(frozen)
    start = before.unet.state_dict()
    assert not any(torch.equal(value, start[name]) for name, value in written.unet.state_dict().items())
    assert list(tmp_path.rglob("val_samples*.png"))


def test_what_a_transformer_cannot_do_is_refused(tmp_path):
    small_transformer().build(0).save_pretrained(tmp_path)
    settings = {"base": str(tmp_path), "out": "unused"}
    with pytest.raises(ValueError, match=r"model.train_text_encoder must be false for a transformer .*; got true"):
        SingleViewModule(**settings, train_text_encoder=True)
    with pytest.raises(ValueError, match=r"model.add_input must be false for a transformer .*; got true"):
        SingleViewModule(**settings, task="depth", add_input=True)
    with pytest.raises(ValueError, match=r"loss.timestep_sampling .* do not apply to a base of flow matching"):
        SingleViewModule(**settings, loss=LossSettings(timestep_sampling="mode"))
    with pytest.raises(ValueError, match=r"model.snr_gamma must be null for .*; got 5"):
        SingleViewModule(**settings, snr_gamma=5.0)
    with pytest.raises(ValueError, match=r"timesteps must descend from at most 1000 to above 0; got \[1001\]"):
        SingleViewModule(**settings, sampling=Sampling(timesteps=[1001]))
    with pytest.raises(ValueError, match=r"Stable Diffusion 1 or 2 to train a ControlNet; got a SanaBase"):
        ControlNetModule(**settings)
    tiny_base(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"sigmas must be left out for DDIMScheduler, .*; got \[3.0\]"):
        SingleViewModule(base=str(tmp_path / "unet"), out="unused", sampling=Sampling(sigmas=[3.0]))
    with pytest.raises(ValueError, match=r"model.flow must be left out for .*/unet, which is no base of flow matching"):
        SingleViewModule(base=str(tmp_path / "unet"), out="unused", flow=FlowSettings(shift=2.0))
