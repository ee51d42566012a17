import copy
import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.diffusion import sample_timesteps, view_noise
from mvdiff.geometry.cameras import RingRig
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.backbone import load_backbone
from mvdiff.models.fresh import FreshBase
from mvdiff.settings import CacheSettings, MemorySettings
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Condition
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.single_view import VALIDATION_EPOCH, SingleViewModule
from tests.models.test_fresh import TEXT, UNET
from tests.tiny import tiny_base
from tests.training.grouped import grouped

PREFIX = PanoramaTask.prompt_prefix
RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=24)


def make(folder, module_class=SingleViewModule, **settings):
    settings = {"num_inference_steps": 2, "num_validation_samples": 2, "out": str(folder / "unused")} | settings
    if "fresh" not in settings:
        settings["base"] = str(folder / "base")
    return module_class(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3), **grouped(**settings))


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2, batch_size=2)


@pytest.fixture(scope="module")
def module(tiny_folder):
    return make(tiny_folder)


def batch_of(data, *keys):
    dataset = data.train_dataset()
    return MultiViewBatch.collate([dataset[key] for key in keys])


def trainer(folder, steps, callbacks=(), **settings):
    return Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **settings,
    )


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# Loss


def test_loss_matches_the_formula_written_out(module, data):
    batch = batch_of(data, (3, 1))
    base, losses = module.backbone, []
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    for view in range(3):
        key = keyed_int("view", 1, view)
        latents = base.encode_images(batch.images[0, view, None], keyed_generator("latent", 0, 3, key))
        t = sample_timesteps(1000, 0, 3, [key])
        noise = view_noise(0, 3, key, num_views=1, shape=latents.shape[1:])
        text = base.encode_prompts([f"{PREFIX}{batch.prompts[0][view]}"])
        predicted = base.unet(scheduler.add_noise(latents, noise, t), t, encoder_hidden_states=text).sample
        losses.append((predicted - noise).square().mean())
    torch.testing.assert_close(module.noise_loss(batch, batch.prompts), torch.stack(losses).mean())


def test_a_views_draws_do_not_depend_on_its_batch(module, data):
    def loss(*keys):
        batch = batch_of(data, *keys)
        return module.noise_loss(batch, module.inputs.with_text_dropout(batch, 0.5), reduction="none")

    together = loss((3, 0), (3, 1), (3, 2))
    torch.testing.assert_close(together, torch.cat([loss((3, i)) for i in range(3)]), atol=1e-5, rtol=1e-5)
    later = batch_of(data, (3, 0))
    later.epoch = 4
    assert not torch.allclose(together[0], module.noise_loss(later, later.prompts))


def test_saving_memory_changes_no_gradient(tiny_folder, data):
    plain = make(tiny_folder, train_text_encoder=True)
    saving = make(tiny_folder, train_text_encoder=True, gradient_checkpointing=True, vae_slicing=True)
    batch = batch_of(data, (3, 1), (3, 2))
    for module in (plain, saving):
        module.train().noise_loss(batch, batch.prompts).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert saving.backbone.unet.is_gradient_checkpointing
    assert saving.backbone.vae.use_slicing
    assert not plain.backbone.unet.is_gradient_checkpointing


def test_text_is_dropped_view_by_view_at_its_rate(module, data):
    batch, dropped = batch_of(data, (0, 0)), []
    for epoch in range(200):
        (row,) = module.inputs.with_text_dropout(dataclasses.replace(batch, epoch=epoch), 0.3)
        assert all(prompt in (None, given) for prompt, given in zip(row, batch.prompts[0], strict=True))
        dropped.append([prompt is None for prompt in row])
    dropped = torch.tensor(dropped).float()
    assert abs(dropped.mean() - 0.3) < 3 * (0.3 * 0.7 / dropped.numel()) ** 0.5
    assert (dropped.sum(dim=1) == 1).any()  # one view of three, not whole samples


def test_padded_views_count_in_no_loss_and_no_gradient(tiny_folder, data):
    module, dataset = make(tiny_folder), data.train_dataset()
    whole, part = dataset[(1, 0)], dataset[(1, 4)]
    part = part | {name: part[name][:2] for name in ("images", "K", "R", "prompts")}
    alone = [module.noise_loss(one, one.prompts) for one in (MultiViewBatch.collate([one]) for one in (part, whole))]
    together = MultiViewBatch.collate([part, whole])
    assert together.view_valid.tolist() == [[True, True, False], [True] * 3]
    gradients = []
    for padding, prompt in ((0.0, ""), (float("nan"), "a red lamp")):
        together.images[0, 2], together.prompts[0][2] = padding, prompt
        losses = module.noise_loss(together, together.prompts, reduction="none")
        torch.testing.assert_close(losses, torch.stack(alone))
        module.zero_grad()
        losses.mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.backbone.unet.parameters()]))
    assert torch.equal(*gradients)
    together.view_valid[0] = False
    with pytest.raises(ValueError, match="view_valid must mark at least one view of each sample"):
        module.noise_loss(together, together.prompts)


class ShadedTask(PanoramaTask):
    """A UNet of five channels: the fifth is the depth, at the latents' size."""

    name = "shaded"

    def check_base(self, unet, latent_channels):
        assert unet.config.in_channels == latent_channels + 1

    def condition(self, batch, encoder):
        return Condition(channels=batch.depths[:, :, None, :: encoder.vae_stride, :: encoder.vae_stride])


def test_a_task_composes_the_input_of_loss_and_samples(tiny_folder, data):
    fresh = FreshBase(UNET | {"in_channels": 5}, TEXT, vae=str(tiny_folder / "base" / "vae"))
    module, batch = make(tiny_folder, task=ShadedTask(), fresh=fresh), batch_of(data, (0, 0), (0, 1))
    batch.depths = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    batch.view_valid[0, 2] = False
    views = torch.tensor([0, 3])
    losses, images = module.noise_loss(batch, batch.prompts, reduction="none"), module.generate(batch, views)
    batch.depths[0, 2] += 1  # padding
    assert torch.equal(module.noise_loss(batch, batch.prompts, reduction="none"), losses)
    batch.depths[1, 0] += 1
    changed = module.noise_loss(batch, batch.prompts, reduction="none") != losses
    assert changed.tolist() == [False, True]
    differs = (module.generate(batch, views) - images).abs().amax(dim=(1, 2, 3))
    assert differs[0] < 1e-6 < 1e-4 < differs[1]


# What is trained


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_checkpoints_optimizer_and_gradients_have_what_is_trained_alone(tiny_folder, data, train_text_encoder):
    module = make(tiny_folder, train_text_encoder=train_text_encoder)
    base, trained = module.backbone, ["unet", "text_encoder"] if train_text_encoder else ["unet"]
    expected = {f"trained_modules.{part}.{name}" for part in trained for name in getattr(base, part).state_dict()}
    assert set(module.state_dict()) == expected
    batch = batch_of(data, (0, 0))
    module.noise_loss(batch, batch.prompts).backward()
    parameters = {id(p) for part in trained for p in getattr(base, part).parameters()}
    assert {id(p) for p in module.parameters() if p.grad is not None} == parameters
    assert {id(p) for p in module.configure_optimizers()["optimizer"].param_groups[0]["params"]} == parameters
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in module.parameters()})  # each is registered once
    module.train()
    modes = {part: getattr(base, part).training for part in ("unet", "text_encoder", "vae")}
    assert modes == {"unet": True, "text_encoder": train_text_encoder, "vae": False}
    assert not any(part.training for part in module.eval().modules())


def test_a_checkpoint_of_other_trained_or_frozen_parts_is_refused(tiny_folder, module, tmp_path):
    state = module.state_dict()
    with pytest.raises(ValueError, match=r"another model: \d+ missing \(first: trained_modules.text_encoder"):
        make(tiny_folder, train_text_encoder=True).load_state_dict(state)
    other = make(tiny_folder)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="strict must be True"):
        other.load_state_dict(state, strict=False)
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    tiny_base(tmp_path / "base", seed=1)
    with pytest.raises(
        ValueError, match=r"the base's vae must be that of the checkpoint, with weights hash [0-9a-f]+; got"
    ):
        make(tmp_path).on_load_checkpoint(checkpoint)
    multi_view = MultiViewModule(base=str(tiny_folder / "base"), **grouped(head_dim=8))
    multi_view.configure_model()
    with pytest.raises(ValueError, match="a checkpoint of another model"):
        multi_view.on_load_checkpoint(checkpoint)


def test_fit_learns_writes_the_base_and_leaves_the_frozen_alone(tiny_folder, data, tmp_path):
    module = make(tiny_folder, out=str(tmp_path / "out"), out_dtype="float16", num_validation_samples=5)
    before = {part: copy.deepcopy(getattr(module.backbone, part).state_dict()) for part in ("vae", "text_encoder")}
    fit = trainer(tmp_path, 24)
    fit.validate(module, data, verbose=False)
    loss = float(fit.callback_metrics["val/loss"])
    held_out = MultiViewBatch.collate([data.val_dataset()[i] for i in range(2)])
    held_out.epoch = VALIDATION_EPOCH  # draws that no epoch of training meets
    torch.testing.assert_close(torch.tensor(loss), module.noise_loss(held_out, held_out.prompts).detach())
    fit = trainer(tmp_path, 24, [TrainedWeightsEMA(0.9, warm_up=True)])
    fit.fit(module, data)
    assert float(fit.callback_metrics["val/loss"]) < 0.8 * loss
    written = load_backbone(tmp_path / "out")
    for part, values in before.items():
        assert all(torch.equal(getattr(module.backbone, part).state_dict()[name], values[name]) for name in values)
    for part in ("unet", "text_encoder", "vae"):
        for name, value in getattr(written, part).state_dict().items():
            assert torch.equal(value, getattr(module.backbone, part).state_dict()[name].half().float()), name
    assert list((tmp_path / "images").glob("val_samples_*.png"))


def test_base_and_text_encoder_are_trained_from_scratch(tiny_folder, data, tmp_path):
    fresh = FreshBase(unet=UNET, text_encoder=TEXT, vae=str(tiny_folder / "base" / "vae"))
    module = make(tiny_folder, fresh=fresh, train_text_encoder=True, out=str(tmp_path / "out"))
    before = state_of(module)
    trainer(tmp_path, 2).fit(module, data)
    unchanged = [name for name, value in module.state_dict().items() if torch.equal(value, before[name])]
    assert not unchanged
    written = load_backbone(tmp_path / "out")
    assert written.weights_hashes(["text_encoder"]) == module.backbone.weights_hashes(["text_encoder"])


class Watched(SingleViewModule):
    """Notes a row of weights after each step, and with which ones it validates, draws and ends."""

    def weights(self):
        return self.backbone.unet.conv_in.weight.detach()[0].clone()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.stepped = [*getattr(self, "stepped", []), self.weights()]

    def validation_step(self, batch, batch_idx):
        self.validated = self.weights()
        super().validation_step(batch, batch_idx)

    def generate(self, batch, views):
        self.drawn = self.weights()
        return super().generate(batch, views)


def test_the_average_is_validated_drawn_and_written(tiny_folder, data, tmp_path):
    module = make(tiny_folder, Watched, out=str(tmp_path / "out"))
    trainer(tmp_path, 6, [TrainedWeightsEMA(0.5)]).fit(module, data)
    average = module.stepped[0]
    for weights in module.stepped[1:]:
        average = 0.5 * average + 0.5 * weights
    assert (average - module.stepped[-1]).abs().max() > 1e-4
    written = load_backbone(tmp_path / "out").unet.conv_in.weight[0]
    for used in (module.validated, module.drawn, module.weights(), written):
        torch.testing.assert_close(used, average, rtol=0, atol=1e-6)


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_resume_equals_an_uninterrupted_run(tiny_folder, data, tmp_path, train_text_encoder):
    def fit(name, ckpt_path=None):
        module = make(
            tiny_folder, out=str(tmp_path / name), train_text_encoder=train_text_encoder, num_validation_samples=0
        )
        saver = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, every_n_train_steps=2)
        run = trainer(tmp_path, 7, [TrainedWeightsEMA(0.7, warm_up=True), saver])
        run.fit(module, copy.deepcopy(data), ckpt_path=ckpt_path, weights_only=True)
        return state_of(module), float(run.callback_metrics["val/loss"])

    whole, loss = fit("whole")
    resumed, resumed_loss = fit("resumed", tmp_path / "whole" / "step=4.ckpt")  # in the middle of the second epoch
    assert resumed_loss == loss
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    checkpoint = torch.load(tmp_path / "whole" / "step=4.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(checkpoint["current_model_state"]) == set(whole)
    written = [load_backbone(tmp_path / name).weights_hash() for name in ("whole", "resumed")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "model.base and model.fresh: exactly one must be set"),
        ({"base": "b", "memory": MemorySettings(views_per_chunk=2)}, "memory.views_per_chunk must be null .*; got 2"),
        (
            {"base": "b", "cache": CacheSettings(dir="c"), "train_text_encoder": True},
            "cache.latents must be true when cache.dir is set and train_text_encoder is true; got false",
        ),
    ],
)
def test_wrong_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        SingleViewModule(out="x", **settings)


def test_caching_latents_of_random_yaws_is_refused(tiny_folder, data, tmp_path):
    module = make(tiny_folder, cache=CacheSettings(dir=str(tmp_path), latents=True))
    with pytest.raises(ValueError, match=r"data\.yaw must be a list of degrees when model.cache.latents is true"):
        trainer(tmp_path, 1).fit(module, datamodule=data)


def test_wrong_numbers_stop_it_and_are_not_written(tiny_folder, data, tmp_path):
    out = tmp_path / "base"
    module = make(tiny_folder, out=str(out))
    next(module.trained().parameters()).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is not finite at .* step 1; samples: room\d, room\d\."):
        trainer(tmp_path, 2).fit(module, datamodule=data)
    with pytest.raises(FloatingPointError, match=r"model\.out .*base is not written: .* has NaN or infinite"):
        trainer(tmp_path, 0).fit(module, datamodule=data)
    large = make(tiny_folder, out=str(out), out_dtype="float16")
    next(large.trained().parameters()).data.view(-1)[0] = 1e6  # finite as float32
    with pytest.raises(FloatingPointError, match=r"has NaN or infinite values as float16.*out_dtype"):
        trainer(tmp_path, 0).fit(large, datamodule=data)
    assert not out.exists()
