"""Accelerators act or are refused: DeepCache's and ToMe's ways to patch a UNet, FreeU, compilation, our deep cache."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.hooks import FirstBlockCacheConfig
from diffusers.models.attention import BasicTransformerBlock
from torch.testing import assert_close

from mvdiff.cli.opening import MemoryOptions, with_memory_switches
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.deep_cache import DeepCache, DeepCacheSettings
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import rig_batch
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.panorama import PanoramaTask
from tests import tiny_bases
from tests.geometries import camera_geometry
from tests.pipelines.conftest import RING, make_pipeline, trained_like

CALL = {"seed": 1, "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("speed") / "base")


@pytest.fixture
def pipeline(made):
    """The pipeline with parts of its own, which a test may patch."""
    parts = copy.copy(made)
    parts.register_modules(unet=copy.deepcopy(made.unet))
    return parts


@pytest.fixture
def shallow(pipeline):
    """The pipeline with a UNet of one level, which compiles in half the time."""
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = UNet2DConditionModel.from_config(dict(pipeline.unet.config) | kinds | {"block_out_channels": (32,)}).eval()
    pipeline.register_modules(unet=unet, adapter=trained_like(MultiViewAdapter.from_unet(unet)))
    return pipeline


def latents(pipeline, prompt="a ball", **settings):
    return pipeline(prompt, **CALL | settings).images


@pytest.fixture(scope="module")
def expected(made):
    return latents(made)


# Patches of others


def patch_forward(unet):
    unet.forward = lambda *args, **kwargs: type(unet).forward(unet, *args, **kwargs)


def patch_block_forward(unet):
    block = unet.up_blocks[1]
    block.forward = lambda *args, **kwargs: type(block).forward(block, *args, **kwargs)


PATCHES = {
    "unet must not have another forward": patch_forward,
    "unet.up_blocks.1 must not have another forward": patch_block_forward,
    "unet must not have forward hooks": lambda unet: unet.register_forward_pre_hook(lambda *args: None),
    "unet.mid_block must not have forward hooks": lambda unet: unet.mid_block.register_forward_hook(lambda *args: None),
    "unet must not have a compiled forward": lambda unet: unet.compile(backend="eager"),
}


@pytest.mark.parametrize("message", PATCHES)
def test_patches_of_what_is_never_called_are_refused(pipeline, message):
    PATCHES[message](pipeline.unet)
    with pytest.raises(ValueError, match=message):
        latents(pipeline)


def test_a_unet_compiled_as_a_whole_is_refused(pipeline):
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    with pytest.raises(ValueError, match="unet must not be compiled as a whole"):
        latents(pipeline)


@pytest.mark.parametrize("name", ["sana", "sd3", "z_image"])
def test_a_transformer_compiles_in_place_and_a_wrapped_one_is_refused(name):
    base, rig = tiny_bases.make(name), RingRig(num_views=3, fov_deg=150.0, height=32, width=32)
    adapter = trained_like(base.new_adapter({"init_args": {"head_dim": 8}}))
    pipeline = MultiViewPipeline.from_backbone(base, adapter, task=PanoramaTask(), views={"rig": rig})
    pipeline.set_progress_bar_config(disable=True)

    def views(caa):
        batch, sampling = rig_batch(rig, [["a red lamp"] * 3]), Sampling(num_inference_steps=1, guidance_scale=1)
        return pipeline.generate(batch, sampling, controls=Controls(caa=caa), decode=False).latents

    order, backend = (True, False, True), Counted()
    expected, own = [views(caa) for caa in order], pipeline.unet
    pipeline.unet = torch.compile(own, backend=backend)
    with pytest.raises(ValueError, match=r"unet must not be wrapped by torch.compile.*pipeline.unet.compile"):
        views(caa=True)
    pipeline.unet = own
    pipeline.unet.compile(backend=backend)
    for caa, plain in zip(order, expected, strict=True):
        assert_close(views(caa), plain, rtol=1e-4, atol=1e-4)
    assert backend.runs
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


@pytest.mark.parametrize("is_first", [True, False])
def test_patches_under_and_over_the_hooks_of_offloading_are_refused(pipeline, is_first):
    steps = [lambda: patch_forward(pipeline.unet), lambda: pipeline.enable_model_cpu_offload(device="cpu")]
    for step in steps if is_first else steps[::-1]:
        step()
    with pytest.raises(ValueError, match="unet must not have another forward"):
        latents(pipeline)
    pipeline.remove_all_hooks()


def test_classes_of_transformer_blocks_can_be_replaced(pipeline, expected):
    class Halved(BasicTransformerBlock):
        def forward(self, hidden_states, *args, **kwargs):
            return (hidden_states + super().forward(hidden_states, *args, **kwargs)) / 2

    for module in pipeline.unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.__class__ = Halved
    assert not torch.allclose(latents(pipeline), expected, atol=1e-3)


def test_freeu_scales_as_in_the_stock_unet(pipeline, expected):
    sample, text = torch.randn(2, 1, 4, 8, 8), torch.randn(2, 1, 5, 32)
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    stock = pipeline.unet(sample[:, 0], 500, text[:, 0]).sample
    assert torch.equal(pipeline._multi_view_unet()(sample, 500, text, None)[:, 0], stock)
    scaled = latents(pipeline)
    assert not torch.allclose(scaled, expected, atol=1e-3)
    assert pipeline.unusual_settings()["freeu"] == {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}
    pipeline.enable_deep_cache(interval=3, depth=3)  # what is kept does not get scaled twice
    first, second = (latents(pipeline, num_inference_steps=3) for _ in range(2))
    assert torch.equal(first, second)
    pipeline.disable_deep_cache()
    pipeline.disable_freeu()
    assert torch.equal(latents(pipeline), expected)


class Counted:
    """A backend of torch.compile that counts graphs and runs of them."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph(*args)

        return run


def test_compilation_runs_in_every_step_and_is_kept_between_calls(shallow):
    backend, expected = Counted(), latents(shallow)
    shallow.enable_compile(backend=backend)
    assert_close(latents(shallow), expected)
    graphs, runs = backend.graphs, backend.runs
    assert graphs
    assert runs >= graphs * CALL["num_inference_steps"]
    assert_close(latents(shallow), expected)
    assert (backend.graphs, backend.runs) == (graphs, 2 * runs)
    shallow.enable_deep_cache(interval=2)
    cached = latents(shallow)
    shallow.disable_compile()
    assert_close(cached, latents(shallow))
    shallow.disable_deep_cache()
    assert torch.equal(latents(shallow), expected)
    assert not torch.allclose(cached, expected, atol=1e-3), "the deep cache acts"


@pytest.mark.parametrize("part", ["unet", "adapter"])
def test_repeated_blocks_can_be_compiled(pipeline, expected, part):
    backend = Counted()
    pipeline.register_modules(adapter=copy.deepcopy(pipeline.adapter))
    getattr(pipeline, part).compile_repeated_blocks(backend=backend)
    assert_close(latents(pipeline), expected)
    assert backend.runs


def test_attention_backends_and_caches_of_transformers_are_refused_for_a_unet(pipeline):
    with pytest.raises(ValueError, match=r"set_attention_backend needs .* UNet2DConditionModel"):
        pipeline.set_attention_backend("native")
    with pytest.raises(ValueError, match=r"enable_cache needs .* UNet2DConditionModel"):
        pipeline.enable_cache(FirstBlockCacheConfig())


def test_the_command_line_sets_them(pipeline):
    found = with_memory_switches(pipeline, MemoryOptions(deep_cache=3, compile="eager"), "cpu")
    assert found.deep_cache == DeepCacheSettings(3, 1)
    assert found._multi_view_unet()._compiled_call_impl is not None


def test_the_deep_cache_needs_a_unet():
    base = tiny_bases.make("sana")
    adapter = base.new_adapter({"init_args": {"head_dim": 8}})
    made = MultiViewPipeline.from_backbone(base, adapter, task=PanoramaTask(), views={"rig": RING})
    with pytest.raises(ValueError, match=r"\(--deep_cache\) needs a base with a UNet; got a SanaTransformer2DModel"):
        with_memory_switches(made, MemoryOptions(deep_cache=3), "cpu")


# Deep cache


def test_deep_cache_of_interval_1_and_after_it_is_off_changes_no_bit(pipeline, expected):
    pipeline.enable_deep_cache(interval=1, depth=1)
    assert torch.equal(latents(pipeline), expected)
    assert not pipeline.unusual_settings()
    pipeline.enable_deep_cache(interval=3, depth=1)
    assert pipeline.unusual_settings() == {"deep_cache": {"interval": 3, "depth": 1}}
    assert not torch.equal(latents(pipeline), expected)
    pipeline.disable_deep_cache()
    assert torch.equal(latents(pipeline), expected)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 9])
def test_deep_cache_reuses_the_deep_part_and_recomputes_the_rest_with_its_attention(pipeline, depth):
    """The same input gives the same bits at any depth; new weights of the deep part are not read, others are."""
    network = pipeline._multi_view_unet()
    batch, text = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 4, 5, 32)
    geometry = camera_geometry(*pipeline.rig.cameras(), 8, 8, 4, 2)
    cache = DeepCache(DeepCacheSettings(2, depth))
    first = network(batch, 500, text, geometry, deep_cache=cache)
    assert torch.equal(network(batch, 500, text, geometry), first)
    pipeline.unet.mid_block.resnets[0].conv1.weight.mul_(2)
    assert torch.equal(network(batch, 500, text, geometry, deep_cache=cache), first)
    assert not torch.equal(network(batch, 500, text, geometry, deep_cache=cache), first)  # a new interval


@torch.no_grad()
def test_deep_cache_keeps_attention_across_views_in_the_shallow_part(pipeline):
    network, geometry = pipeline._multi_view_unet(), camera_geometry(*pipeline.rig.cameras(), 8, 8, 4, 2)
    batch, text = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 4, 5, 32)
    cache, changed = DeepCache(DeepCacheSettings(2, 1)), batch.clone()
    changed[:, 0] += 1
    first = network(batch, 500, text, geometry, deep_cache=cache)
    second = network(changed, 500, text, geometry, deep_cache=cache)
    assert not torch.equal(second[:, 1], first[:, 1])  # a neighbour of view 0


def test_deep_cache_is_empty_when_a_call_begins(pipeline):
    pipeline.enable_deep_cache(interval=3, depth=2)
    alone = latents(pipeline, "a red lamp")
    latents(pipeline, "a ball", num_inference_steps=2)  # ends within an interval
    assert torch.equal(latents(pipeline, "a red lamp"), alone)


def test_deep_cache_does_not_mix_samples_chunks_and_passes_of_guidance(pipeline):
    pipeline.enable_deep_cache(interval=2, depth=2)
    names = ["one", "two"]
    both = latents(pipeline, ["a ball", "a red lamp"], sample_ids=names)
    for i, prompt in enumerate(["a ball", "a red lamp"]):
        assert_close(latents(pipeline, prompt, sample_ids=[names[i]])[0], both[i], rtol=1e-4, atol=1e-4)
    pipeline.set_views_per_chunk(3)
    assert_close(latents(pipeline, ["a ball", "a red lamp"], sample_ids=names), both, rtol=1e-4, atol=1e-4)
    pipeline.set_views_per_chunk(None)

    def without_guidance(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 1.0
        return {}

    assert torch.isfinite(latents(pipeline, callback_on_step_end=without_guidance)).all()  # half the rows: computed


def test_wrong_settings_of_the_deep_cache_are_refused(pipeline):
    for name, value in (("interval", 0), ("interval", 2.5), ("depth", 0), ("depth", True)):
        with pytest.raises(ValueError, match=f"{name} of the deep cache .* {value!r}"):
            pipeline.enable_deep_cache(**{name: value})
