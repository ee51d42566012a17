import copy
import json

import pytest
import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Trainer

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.diffusion import sample_timesteps, training_noise
from mvdiff.geometry.cameras import RingRig
from mvdiff.keyed import keyed_generator
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.settings import AdapterSettings, CacheSettings
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.record import training_record
from mvdiff.training.single_view import SingleViewModule
from tests.tiny import tiny_base
from tests.training.grouped import grouped

PREFIX = PanoramaTask.prompt_prefix
RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)


def make(folder, **settings):
    settings = {"head_dim": 8, "num_inference_steps": 2, "num_validation_samples": 1} | settings
    module = MultiViewModule(base=str(folder / "base"), **grouped(**settings))
    module.configure_model()
    return module


def awaken(module):
    """Give the adapter's zero-initialised layers weights, so that views do talk to each other."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2)


@pytest.fixture(scope="module")
def module(tiny_folder):
    return awaken(make(tiny_folder))


def batch_of(data, *keys):
    dataset = data.train_dataset()
    return MultiViewBatch.collate([dataset[key] for key in keys])


def test_loss_matches_the_formula_written_out(module, data):
    batch = batch_of(data, (3, 1))
    base = module.backbone
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    latents = base.encode_images(batch.images[0], generator=keyed_generator("latents", 0, 3, 1))
    t = sample_timesteps(1000, 0, 3, [1])
    noise = training_noise(0, 3, [1], 3, latents.shape[1:])
    noisy = scheduler.add_noise(latents, noise[0], t)
    text = base.encode_prompts([f"{PREFIX}{prompt}" for prompt in batch.prompts[0]])
    predicted = module.unet(noisy[None], t, text[None], geometry_of(module, batch))
    expected = (predicted - noise).square().mean()
    torch.testing.assert_close(module.noise_loss(batch, batch.prompts), expected)


def test_the_batch_split_changes_nothing(module, data):
    together = module.noise_loss(batch_of(data, (1, 0), (1, 4)), [["a"] * 3, ["b"] * 3], reduction="none")
    first = module.noise_loss(batch_of(data, (1, 0)), [["a"] * 3])
    second = module.noise_loss(batch_of(data, (1, 4)), [["b"] * 3])
    torch.testing.assert_close(together, torch.stack([first, second]))


def test_what_is_random_follows_seed_epoch_and_sample(module, data, tiny_folder):
    one = module.noise_loss(batch_of(data, (0, 0)), [["a"] * 3])
    assert torch.equal(one, module.noise_loss(batch_of(data, (0, 0)), [["a"] * 3]))
    later = copy.copy(batch_of(data, (0, 0)))
    later.epoch = 1
    assert not torch.equal(one, module.noise_loss(later, [["a"] * 3]))
    other = copy.copy(batch_of(data, (0, 0)))
    other.sample_index = other.sample_index + 1
    assert not torch.equal(one, module.noise_loss(other, [["a"] * 3]))


def test_views_talk_to_each_other_in_training(module, data):
    batch = batch_of(data, (0, 0))
    alone = module.unet(*inputs_without_geometry(module, batch))
    geometry = geometry_of(module, batch)
    together = module.unet(*inputs_without_geometry(module, batch)[:3], geometry)
    assert (alone - together).abs().max() > 1e-3


def geometry_of(module, batch):
    return module.adapter.geometry(batch, module.backbone.vae_stride)


def inputs_without_geometry(module, batch):
    latents = module.inputs.latents(batch)
    return latents, torch.tensor([500]), module.inputs.text(batch.prompts), None


def test_a_fresh_adapter_has_the_loss_of_the_plain_base(tiny_folder, data):
    module, batch = make(tiny_folder), batch_of(data, (0, 2))
    with_adapter = module.noise_loss(batch, batch.prompts)
    module.adapter.geometry = lambda batch, vae_stride: None
    torch.testing.assert_close(with_adapter, module.noise_loss(batch, batch.prompts), rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_adapter_and_nothing_else(tiny_folder, data):
    module, batch = awaken(make(tiny_folder)), batch_of(data, (0, 0))
    module.noise_loss(batch, batch.prompts).backward()
    names = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert names
    assert all(name.startswith("unet.adapter.") for name in names)
    assert all(torch.isfinite(p.grad).all() for p in module.adapter.parameters() if p.grad is not None)
    module.lr_scheduler = None
    optimized = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert {id(p) for p in optimized} == {id(p) for p in module.adapter.parameters()}


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"torch_compile": "eager"}], ids=str)
def test_checkpointing_and_compilation_give_the_same_gradients(tiny_folder, data, settings):
    gradients = []
    for chosen in ({}, settings):
        module = awaken(make(tiny_folder, **chosen))
        assert (module.unet._compiled_call_impl is not None) is ("torch_compile" in chosen)
        batch = batch_of(data, (0, 0))
        module.noise_loss(batch, batch.prompts).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.adapter.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_the_base_stays_in_evaluation_mode(module):
    module.train()
    assert not any(part.training for part in module.backbone.modules())
    assert module.adapter.training


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_text_dropout_drops_whole_samples_at_its_rate(module, data, chance):
    batch, dropped = batch_of(data, (0, 0)), 0
    for epoch in range(200):
        batch.epoch = epoch
        (prompts,) = module.inputs.with_text_dropout(batch, chance)
        assert prompts in (batch.prompts[0], [None] * 3)
        dropped += prompts == [None] * 3
    assert abs(dropped / 200 - chance) <= 3 * (chance * (1 - chance) / 200) ** 0.5


def test_geometry_is_computed_once_per_rig(module, data):
    first = geometry_of(module, batch_of(data, (0, 0)))
    assert geometry_of(module, batch_of(data, (5, 3))) is first  # another yaw is the same rig
    mixed = batch_of(data, (0, 0), (0, 1))
    mixed.R[1] = mixed.R[1].flip(0)
    with pytest.raises(ValueError, match="samples of a batch must share their cameras"):
        geometry_of(module, mixed)


def test_geometry_made_in_validation_serves_training(tiny_folder, data):
    module = awaken(make(tiny_folder))
    with torch.inference_mode():
        batch = batch_of(data, (0, 0))
        module.noise_loss(batch, batch.prompts)
    batch = batch_of(data, (0, 0))
    module.noise_loss(batch, batch.prompts).backward()


def test_checkpoints_hold_the_adapter_alone(module):
    state = module.state_dict()
    assert set(state) == {f"adapter.{name}" for name in module.adapter.state_dict()}
    assert sum(value.numel() for value in state.values()) < sum(p.numel() for p in module.backbone.parameters())


def test_state_dict_round_trip(module, tiny_folder):
    other = make(tiny_folder, seed=5)
    other.load_state_dict(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(module.adapter.parameters(), other.adapter.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "unexpected", "misshapen"])
def test_a_checkpoint_of_another_model_is_refused(module, damage):
    state = dict(module.state_dict())
    name = next(iter(state))
    if damage == "missing":
        del state[name]
    elif damage == "unexpected":
        state["adapter.extra.weight"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(7, 7)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    kind = "with a wrong shape" if damage == "misshapen" else damage
    with pytest.raises(ValueError, match=f"a checkpoint of another model: .*1 {kind} "):
        module.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    with pytest.raises(ValueError, match="strict must be True"):
        module.load_state_dict(before, strict=False)


def test_a_checkpoint_of_another_base_is_refused(module, data, tmp_path, tiny_folder):
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.trainer.datamodule = data
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    tiny_base(tmp_path / "base", seed=1)
    other = make(tmp_path)
    with pytest.raises(ValueError, match=r"model.base must be the base of the checkpoint, .*tiny.*base"):
        other.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="a checkpoint of another model"):
        module.on_load_checkpoint({})
    checkpoint["mvdiff"]["info"]["task"] = "depth"
    with pytest.raises(ValueError, match="must be for the task panorama; got a checkpoint of another task, depth"):
        module.on_load_checkpoint(checkpoint)


def test_the_record_of_a_training_names_settings_and_no_place(module, data, tiny_folder):
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", accumulate_grad_batches=2)
    module.trainer.datamodule = data
    record = training_record(module)
    assert record.data == "EquirectangularDataModule"
    expected = {"samples per step": 2 * data.batch_size, "text_dropout": 0.1, "kernel_size": 3, "precision": "32-true"}
    assert expected.items() <= record.settings.items()
    assert str(tiny_folder) not in json.dumps(record.to_dict())
    assert record == TrainingRecord(**json.loads(json.dumps(record.to_dict())))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_and_slices_give_the_same_gradients(tiny_folder, data, checkpointing):
    gradients = []
    for settings in ({}, {"views_per_chunk": 2, "vae_slicing": True, "gradient_checkpointing": checkpointing}):
        module = awaken(make(tiny_folder, **settings))
        batch = batch_of(data, (0, 0))
        module.noise_loss(batch, batch.prompts).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.adapter.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert module.unet.views_per_chunk == 2
    assert module.backbone.vae.use_slicing


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_fit_and_validate_in_a_precision(tiny_folder, data, tmp_path, precision):
    module = make(tiny_folder)
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=2,
        num_sanity_val_steps=1,
        limit_val_batches=1,
        val_check_interval=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    assert 5 < trainer.callback_metrics["val/overlap_psnr"] < 60
    assert 0.5 < trainer.callback_metrics["val/loss"] < 2
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["val_samples_2.png"]  # no logger takes images
    assert all(parameter.dtype == torch.float32 for parameter in module.adapter.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in module.adapter.parameters())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"text_dropout": 1.5}, r"text_dropout must lie in \[0, 1\]; got 1.5"),
    ],
)
def test_wrong_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        MultiViewModule(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"latents": True}, r"cache\.dir must be a folder when cache\.latents is true; got null"),
        ({"geometry_bytes": -1}, r"cache\.geometry_bytes must be at least 0; got -1"),
    ],
)
def test_wrong_cache_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        CacheSettings(**settings)


def test_a_checkpoint_makes_its_module_again(tiny_folder, tmp_path):
    """Settings in groups are plain values in a checkpoint; without them the module is another."""
    data = EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=0)
    module = make(tiny_folder, mid_place="after_mid_block", prompt_prefix="seen: ", views_per_chunk=2)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    settings = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert settings["adapter"]["attention"] == {"init_args": {"head_dim": 8}}
    assert settings["task"] == "panorama"
    assert "_instantiator" not in settings
    loaded = MultiViewModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())
    assert loaded.adapter.config.mid_place == "after_mid_block"
    assert (loaded.prompt_prefix, loaded.sampling, loaded.memory) == ("seen: ", module.sampling, module.memory)


@pytest.mark.parametrize("instantiator", [{}, {"_instantiator": "lightning.pytorch.cli.instantiate_module"}])
@pytest.mark.parametrize(
    "settings",
    [
        {"task": {"class_path": "trapped.Evil"}},
        {"task": "trapped.Evil"},
        {"adapter": {"class_path": "trapped.Evil"}},
        {"adapter": {"attention": {"class_path": "trapped.Evil"}}},
        {"sampling": {"class_path": "trapped.Evil"}},
        {"cache": {"class_path": "trapped.Evil"}},
        {"output": {"metrics": ["trapped.Evil"]}},
        {"output": {"metrics": [{"class_path": "trapped.Evil"}]}},
        {"output": {"evaluation": {"class_path": "trapped.Evil"}}},
    ],
    ids=str,
)
def test_a_hostile_checkpoint_imports_nothing(settings, instantiator, tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "trapped.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    known = {"base": str(tiny_folder / "base"), "adapter": {"attention": {"init_args": {"head_dim": 8}}}}
    held = {"pytorch-lightning_version": "2.4.0", "state_dict": {}, "epoch": 0, "global_step": 0}
    torch.save(held | {"hyper_parameters": known | settings | instantiator}, tmp_path / "evil.ckpt")
    for kind, more in ((MultiViewModule, {}), (SingleViewModule, {"out": str(tmp_path / "out")})):
        if kind is SingleViewModule and "task" not in settings:
            continue  # it has no such settings
        with pytest.raises(ValueError, match=r"trapped\.Evil"):
            kind.load_from_checkpoint(tmp_path / "evil.ckpt", weights_only=True, **more)
    assert not (tmp_path / "mark").exists()


def test_lists_of_neighbours_are_refused_for_depth_before_the_first_batch(tiny_folder):
    attention = {"init_args": {"head_dim": 8, "neighbours": [[1], [0]]}}
    module = MultiViewModule("depth", str(tiny_folder / "base"), adapter=AdapterSettings(attention=attention))
    module.task.check_base = lambda *base: None  # the tiny base has no depth channel
    with pytest.raises(ValueError, match="neighbours must be left out for frames with depth; got"):
        module.configure_model()


def test_the_prefix_stands_before_prompts_and_not_in_dropped_ones(tiny_folder, data):
    plain, prefixed = make(tiny_folder, prompt_prefix=""), make(tiny_folder, prompt_prefix="a red ")
    torch.testing.assert_close(prefixed.inputs.text([["lamp", None]]), plain.inputs.text([["a red lamp", ""]]))
    assert make(tiny_folder).prompt_prefix == PREFIX


def test_padded_views_have_no_cameras(module, data):
    """Samples of three and of two views in one batch have the losses they have alone."""
    dataset = data.train_dataset()
    whole, part = dataset[(1, 0)], dataset[(1, 4)]
    part = part | {name: part[name][:2] for name in ("images", "K", "R", "prompts")}
    together = MultiViewBatch.collate([part, whole])
    assert together.view_valid.tolist() == [[True, True, False], [True] * 3]
    losses = module.noise_loss(together, together.prompts, reduction="none")
    for loss, sample in zip(losses, (part, whole), strict=True):
        alone = MultiViewBatch.collate([sample])
        torch.testing.assert_close(loss, module.noise_loss(alone, alone.prompts))
    part["R"] = part["R"].flip(0)
    with pytest.raises(ValueError, match="samples of a batch must share their cameras"):
        geometry_of(module, MultiViewBatch.collate([whole, part]))
