"""Training from shards: the losses, ids and weights of training from files, bit for bit."""

import shutil

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import AdamW

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.latents import from_bytes
from mvdiff.data.shards.reading import ShardSet
from mvdiff.data.shards.writing import write_shards
from mvdiff.eval.sources import DataSource
from mvdiff.settings import CacheSettings
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.single_view import SingleViewModule
from tests.tiny import tiny_base
from tests.training.grouped import grouped
from tests.training.test_multi_view import RIG, make
from tests.training.tiny_run import tiny_config, write_config

YAWS = [0, 90]


@pytest.fixture(scope="module")
def world(tiny_folder, tmp_path_factory):
    """Shards of the tiny panoramas' images, and of their latents, several shards of each."""
    root = tmp_path_factory.mktemp("shards")
    write_shards(image_content(tiny_folder / "data"), root / "images", 25_000)
    config = tiny_config(tiny_folder)
    config["data"]["init_args"] |= {"yaw": YAWS, "mirror": True}
    run = write_config(root / "run.yaml", config)
    how = ["--what", "latents", "--shard_size", "200kB"]
    assert main(["data", "shard", str(run), "--out", str(root / "latents"), *how]) == 0
    how += ["--dtype", "bfloat16"]
    assert main(["data", "shard", str(run), "--out", str(root / "half"), *how]) == 0
    return root


class Seen(Callback):
    """Losses and sample ids of each step; ends the training after step `last`, whose schedule is that of more steps."""

    def __init__(self, last=None):
        self.losses, self.ids, self.last = [], [], last

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.ids.append((batch.epoch, *batch.sample_id))
        trainer.should_stop = trainer.global_step == self.last


def data_of(root, **how):
    return EquirectangularDataModule(root, rig=RIG, **{"num_val": 2, "seed": 4, "yaw": YAWS, "mirror": True} | how)


def fit(tiny_folder, data, tmp_path, steps=5, ckpt_path=None, last=None, base=None, vae=None, **settings):
    torch.manual_seed(0)
    settings = {"head_dim": 8, "num_inference_steps": 2, "num_validation_samples": 0, "text_dropout": 0.5} | settings
    optimizer = {"optimizer": lambda parameters: AdamW(parameters, lr=1e-2)}
    base = str(base or tiny_folder / "base")
    module = MultiViewModule(base=base, vae=vae, **grouped(**settings), **optimizer)
    seen = Seen(last)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    if ckpt_path is None:
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module, seen


def assert_same_weights(one, other):
    for (name, first), second in zip(one.adapter.named_parameters(), other.adapter.parameters(), strict=True):
        assert torch.equal(first, second), name


@pytest.mark.parametrize("workers", [0, 2])
def test_images(tiny_folder, world, tmp_path, workers):
    """With workers, the views are cut in the process that trains."""
    how = {"yaw": "random", "batch_size": 2, "num_workers": workers}
    files, of_files = fit(tiny_folder, data_of(tiny_folder / "data", **how), tmp_path)
    later = {"cut_on_device": workers > 0}
    shards, of_shards = fit(tiny_folder, data_of(world / "images", **how, **later), tmp_path)
    assert of_files.losses == of_shards.losses
    assert of_files.ids == of_shards.ids
    assert len(set(of_files.losses)) == 5
    assert_same_weights(files, shards)


def test_latents_are_those_of_the_cache_and_need_no_encoders(tiny_folder, world, tmp_path):
    cache = CacheSettings(dir=str(tmp_path / "cache"), latents=True)
    files, of_files = fit(tiny_folder, data_of(tiny_folder / "data", num_workers=0), tmp_path, cache=cache)
    encoded = CacheSettings(encoded_data=True)
    shards, of_shards = fit(tiny_folder, data_of(world / "latents", num_workers=2), tmp_path, cache=encoded)
    assert of_files.losses == of_shards.losses
    assert of_files.ids == of_shards.ids
    assert_same_weights(files, shards)
    assert not list(shards.backbone.vae.parameters()) + list(shards.backbone.text_encoder.parameters())
    assert shards.backbone.weights_hash() == files.backbone.weights_hash()
    assert files.trainer.callback_metrics.keys() == shards.trainer.callback_metrics.keys()


def test_a_run_on_top_of_the_packaged_one_shards_and_trains(tiny_folder, tmp_path, monkeypatch):
    """An epoch with validation, whose loss chooses the best checkpoint, on top of `pano_latents.yaml`."""
    monkeypatch.chdir(tmp_path)
    tiny = tiny_config(tiny_folder)
    model = {name: tiny["model"]["init_args"][name] for name in ("base", "adapter")} | {"revision": None}
    data = {**tiny["data"], "init_args": tiny["data"]["init_args"] | {"num_workers": 0, "yaw": YAWS}}
    trainer = {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1}
    own = {"extends": "pano_latents.yaml", "trainer": trainer, "model": {"init_args": model}, "data": data}
    write_config(tmp_path / "mine.yaml", own)
    assert main(["data", "shard", "mine.yaml", "--what", "latents", "--out", "latents"]) == 0
    assert main(["fit", "--config", "mine.yaml", "--data.root", "latents"]) == 0
    assert (tmp_path / "runs/pano/version_0/checkpoints/best-0.ckpt").is_file()
    assert (tmp_path / "runs/pano/version_0/model").is_dir()


def test_a_broken_test_panorama_stops_shards_of_latents(tiny_folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_folder / "data", data)
    name = (data / "test.txt").read_text().split()[0]
    (data / f"{name}.json").unlink()
    config = tiny_config(tiny_folder)
    config["data"]["init_args"] |= {"root": str(data), "yaw": YAWS}
    run = write_config(tmp_path / "run.yaml", config)
    assert main(["data", "shard", str(run), "--what", "latents", "--out", str(tmp_path / "out")]) == 1
    assert f"{name}.json does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_latents_of_another_base_are_refused(tiny_folder, world, tmp_path, part):
    """Those of a base that has the same UNet, and another autoencoder or text encoder."""
    base = shutil.copytree(tiny_folder / "base", tmp_path / "base")
    other = tiny_base(tmp_path / "other", seed=1)
    shutil.rmtree(base / part)
    shutil.copytree(other / part, base / part)
    for encoded in (True, False):
        cache = CacheSettings(encoded_data=encoded)
        with pytest.raises(ValueError, match=rf"the {part} of model\.base must be the one that made the shards"):
            fit(tiny_folder, data_of(world / "latents"), tmp_path, base=base, cache=cache)


def test_another_autoencoder_is_refused_and_a_copy_of_the_own_is_not(tiny_folder, world, tmp_path):
    other = tiny_base(tmp_path / "other", seed=1) / "vae"
    encoded = {"cache": CacheSettings(encoded_data=True)}
    with pytest.raises(ValueError, match=r"the vae of model\.base must be the one"):
        fit(tiny_folder, data_of(world / "latents"), tmp_path, vae=str(other), **encoded)
    _, seen = fit(
        tiny_folder, data_of(world / "latents"), tmp_path, steps=1, vae=str(tiny_folder / "base/vae"), **encoded
    )
    assert len(seen.losses) == 1


def test_a_base_without_the_weights_of_its_encoders_trains_from_latents(tiny_folder, world, tmp_path):
    base = shutil.copytree(tiny_folder / "base", tmp_path / "base")
    for part in ("vae", "text_encoder"):
        for weights in (base / part).glob("*.safetensors"):
            weights.unlink()
    cache = CacheSettings(encoded_data=True)
    module, _ = fit(tiny_folder, data_of(world / "latents"), tmp_path, steps=1, base=base, cache=cache)
    assert module.backbone.weights_hash() == make(tiny_folder).backbone.weights_hash()


def test_half_of_the_precision_is_near(tiny_folder, world, tmp_path):
    encoded = CacheSettings(encoded_data=True)
    _, whole = fit(tiny_folder, data_of(world / "latents"), tmp_path, steps=2, cache=encoded)
    _, half = fit(tiny_folder, data_of(world / "half"), tmp_path, steps=2, cache=encoded)
    assert whole.losses != half.losses
    assert half.losses == pytest.approx(whole.losses, rel=0.02)
    sizes = [sum(path.stat().st_size for path in (world / name).glob("*.tar")) for name in ("half", "latents")]
    assert sizes[0] < 0.62 * sizes[1]


def test_latents_beside_loaded_encoders_still_show_samples(tiny_folder, world, tmp_path):
    module, seen = fit(tiny_folder, data_of(world / "latents"), tmp_path, steps=1, num_validation_samples=1)
    assert len(seen.losses) == 1
    assert list(module.backbone.vae.parameters())


def test_a_resumed_training_may_change_from_files_to_shards(tiny_folder, world, tmp_path):
    how = {"batch_size": 2, "shuffle_block": 2, "mixed_blocks": 2}
    whole, of_whole = fit(tiny_folder, data_of(world / "images", **how), tmp_path / "whole", steps=7)
    _, of_first = fit(tiny_folder, data_of(tiny_folder / "data", **how), tmp_path, steps=7, last=4)
    shards = data_of(world / "images", num_workers=2, **how)
    resumed, of_rest = fit(tiny_folder, shards, tmp_path, steps=7, ckpt_path=tmp_path / "last.ckpt")
    assert of_first.ids + of_rest.ids == of_whole.ids
    assert of_first.losses + of_rest.losses == of_whole.losses
    assert_same_weights(whole, resumed)
    other = data_of(world / "images", **how | {"mixed_blocks": 1})
    with pytest.raises(ValueError, match=r"mixed_blocks.* must be .* to resume mid-epoch"):
        fit(tiny_folder, other, tmp_path, steps=7, ckpt_path=tmp_path / "last.ckpt")


def test_each_cut_and_prompt_is_stored_once(tiny_folder, world):
    shards = ShardSet(world / "latents")
    sample = shards.split("train").sample(0)
    latents = {name for name in sample if name.startswith("yaw")}
    assert latents == {f"yaw{yaw}{end}.safetensors" for yaw in YAWS for end in ("", "-mirrored")}
    assert from_bytes(sample["yaw90.safetensors"], "").shape == (3, 4, 4, 4)
    assert from_bytes(sample["text.safetensors"], "").shape == (2, 77, 32), "two captions, the same in all cuts"
    module = make(tiny_folder)
    expected = module.inputs.embedding("")
    assert torch.equal(from_bytes(shards.file("empty.safetensors"), ""), expected)
    assert shards.manifest.settings["hashes"] == module.backbone.weights_hashes(["vae", "text_encoder"])


def test_what_needs_pictures_refuses_latents(tiny_folder, world, tmp_path):
    """Blank pictures are neither trained on, nor scored."""
    data = data_of(world / "latents", known="first")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    single = SingleViewModule(base=str(tiny_folder / "base"), out=str(tmp_path / "out"))
    for model in (single, MultiViewModule(task="outpaint", base=str(tiny_folder / "base"))):
        with pytest.raises(ValueError, match=r"data\.root must hold pictures; got shards of latents"):
            trainer.fit(model, datamodule=data)
    with pytest.raises(ValueError, match=r"data\.root must hold pictures; got shards of latents"):
        trainer.test(make(tiny_folder), datamodule=data)
    with pytest.raises(ValueError, match=r"data\.root must hold pictures; got shards of latents"):
        len(DataSource(data))


def test_what_does_not_fit_is_named(tiny_folder, world, tmp_path):
    encoded = CacheSettings(encoded_data=True)
    with pytest.raises(ValueError, match=r"data\.root must hold shards of latents"):
        fit(tiny_folder, data_of(world / "images"), tmp_path, cache=encoded)
    with pytest.raises(ValueError, match="prompt_prefix must be that of the shards"):
        fit(tiny_folder, data_of(world / "latents"), tmp_path, cache=encoded, prompt_prefix="A view. ")
    with pytest.raises(ValueError, match=r"yaws 0, 90, with mirroring; got yaw 45"):
        fit(tiny_folder, data_of(world / "latents", yaw=[0, 45], max_damaged=2), tmp_path, cache=encoded)
    with pytest.raises(ValueError, match="num_validation_samples must be 0"):
        fit(tiny_folder, data_of(world / "latents"), tmp_path, cache=encoded, num_validation_samples=2)
    with pytest.raises(ValueError, match=r"cache\.dir must be null"):
        CacheSettings(encoded_data=True, dir="x")
    module, _ = fit(tiny_folder, data_of(world / "latents"), tmp_path, steps=1, cache=encoded)
    with pytest.raises(ValueError, match="encoded_data must be false to use the vae"):
        module.backbone.decode_latents(torch.zeros(1, 4, 4, 4))
