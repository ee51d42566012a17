"""What saves memory changes nothing else: CPU offload (accelerate's own hooks, on a CPU), slices, tiles, chunks."""

import sys

import pytest
import torch
from accelerate.hooks import CpuOffload
from diffusers import AutoencoderTiny

from mvdiff.cli.opening import MemoryOptions, with_memory_switches
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import rig_batch
from mvdiff.pipelines.model_folder import load_adapter
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.settings import Sampling
from mvdiff.tasks.panorama import PanoramaTask
from tests import tiny_bases
from tests.pipelines.conftest import make_pipeline
from tests.pipelines.depth_pipelines import given, make_depth_pipeline, walls
from tests.pipelines.test_outpaint import make_outpaint, some_views

STEPS = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("switches") / "base")


@pytest.fixture(scope="module")
def depth_pipeline(tmp_path_factory):
    return make_depth_pipeline(tmp_path_factory.mktemp("depth_switches"))


@pytest.fixture(scope="module")
def outpaint_pipeline(tmp_path_factory):
    return make_outpaint(tmp_path_factory.mktemp("outpaint_switches"))


@pytest.fixture
def calls(pipeline, depth_pipeline, outpaint_pipeline, request):
    """A pipeline and its call: all the modules that a task has take part."""
    if request.param == "panorama":
        yield pipeline, lambda: pipeline("a ball", **STEPS).images
        pipeline.remove_all_hooks()
    elif request.param == "outpaint":
        images, known = some_views()
        yield outpaint_pipeline, lambda: outpaint_pipeline("a ball", images=images, known=known, **STEPS).images
        outpaint_pipeline.remove_all_hooks()
    else:
        frames = walls(3, 2) | given(2, 3, [0])
        yield depth_pipeline, lambda: depth_pipeline(["a ball", "red"], **frames, **STEPS).images
        depth_pipeline.remove_all_hooks()


EVERY = pytest.mark.parametrize("calls", ["panorama", "depth", "outpaint"], indirect=True)


@EVERY
def test_sequential_offload_keeps_weights_away_between_layers_and_the_images_exactly(calls, tmp_path):
    pipeline, call = calls
    expected, adapter = call(), {name: value.clone() for name, value in pipeline.adapter.state_dict().items()}
    noted = described_settings(pipeline)
    pipeline.enable_sequential_cpu_offload(device="cpu")
    weights = [w for part in ("unet", "adapter", "vae", "text_encoder") for w in getattr(pipeline, part).parameters()]
    for _ in range(2):
        assert all(weight.is_meta for weight in weights)  # nothing can run without being fetched
        assert torch.equal(call(), expected)
        weights = [w for part in ("unet", "adapter", "vae") for w in getattr(pipeline, part).parameters()]
    assert described_settings(pipeline) == noted
    pipeline.save_pretrained(tmp_path / "model")
    saved = load_adapter(tmp_path / "model").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in adapter.items())
    pipeline.remove_all_hooks()
    assert torch.equal(call(), expected)


@EVERY
def test_model_offload_brings_unet_and_adapter_together_and_away_before_decoding(calls, monkeypatch):
    pipeline, call = calls
    expected, events = call(), []
    fetch, leave = CpuOffload.pre_forward, CpuOffload.init_hook

    def fetched(hook, module, *args, **kwargs):
        events.append(f"fetch {type(module).__name__}")
        return fetch(hook, module, *args, **kwargs)

    def left(hook, module):
        events.append(f"leave {type(module).__name__}")
        return leave(hook, module)

    monkeypatch.setattr(CpuOffload, "pre_forward", fetched)
    monkeypatch.setattr(CpuOffload, "init_hook", left)
    pipeline.enable_model_cpu_offload(device="cpu")
    events.clear()
    assert torch.equal(call(), expected)
    last_step = len(events) - events[::-1].index("fetch UNet2DConditionModel") - 1
    assert events[last_step : last_step + 2] == ["fetch UNet2DConditionModel", "fetch MultiViewAdapter"]
    encoding = [at for at, name in enumerate(events[:last_step]) if name == "fetch AutoencoderKL"]
    assert all("leave AutoencoderKL" in events[at : events.index("fetch UNet2DConditionModel")] for at in encoding)
    assert events.count("fetch UNet2DConditionModel") == events.count("fetch MultiViewAdapter") == 2
    after = events[last_step + 2 :]
    decoding = after.index("fetch AutoencoderKL")
    assert {"leave UNet2DConditionModel", "leave MultiViewAdapter"} <= set(after[:decoding])
    assert {name for name in after[decoding:] if name.startswith("leave")} >= {"leave AutoencoderKL"}


@torch.no_grad()
def test_the_multi_view_unet_brings_offloaded_weights_to_where_its_input_is(pipeline):
    from accelerate import cpu_offload_with_hook

    # A device that is not the CPU and needs no GPU: without the hooks' call its input would meet weights elsewhere.
    hooks = [cpu_offload_with_hook(part, "meta")[1] for part in (pipeline.unet, pipeline.adapter)]
    weights = [pipeline.unet.conv_in.weight, pipeline.adapter.mid_block.to_k.weight]
    kept = [{name: value.clone() for name, value in hook.model.state_dict().items()} for hook in hooks]
    sample, text = torch.zeros(1, 4, 4, 8, 8, device="meta"), torch.zeros(1, 4, 77, 32, device="meta")
    output = pipeline._multi_view_unet()(sample, 0.0, text, None)
    assert output.is_meta
    assert [hook.model.dtype for hook in hooks] == [torch.float32] * 2
    weights = [pipeline.unet.conv_in.weight, pipeline.adapter.mid_block.to_k.weight]
    assert all(weight.is_meta for weight in weights)
    for hook, state in zip(hooks, kept, strict=True):
        hook.remove()
        hook.model.load_state_dict(state, assign=True)


def test_offload_says_what_it_needs(pipeline, monkeypatch):
    for enable in (pipeline.enable_model_cpu_offload, pipeline.enable_sequential_cpu_offload):
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="CPU offload requires a GPU"):
                enable()
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for enable in (pipeline.enable_model_cpu_offload, pipeline.enable_sequential_cpu_offload):
        with pytest.raises(ValueError, match=r"CPU offload requires the library accelerate.*mvdiff\[pipelines\]"):
            enable(device="cpu")


def test_slices_and_chunks_change_nothing_but_rounding(pipeline):
    expected = pipeline("a ball", **STEPS).images
    batches = []
    handle = pipeline.vae.decoder.register_forward_hook(lambda module, args, output: batches.append(len(args[0])))
    pipeline.enable_vae_slicing()
    assert (pipeline("a ball", **STEPS).images - expected).abs().max() < 1e-4
    assert batches == [1] * 4
    pipeline.disable_vae_slicing()
    batches.clear()
    rows = []
    resnet = pipeline.unet.mid_block.resnets[0]
    inner = resnet.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    pipeline.set_views_per_chunk(3)
    assert (pipeline("a ball", **STEPS).images - expected).abs().max() < 1e-4
    assert batches == [4]
    assert rows == [3, 3, 2] * 2  # both passes of guidance at two steps
    pipeline.set_views_per_chunk(None)
    handle.remove()
    inner.remove()
    for wrong in (0, 2.5, "2"):
        with pytest.raises(ValueError, match=f"views_per_chunk must be .* at least 1; got {wrong!r}"):
            pipeline.set_views_per_chunk(wrong)
    assert torch.equal(pipeline("a ball", **STEPS).images, expected)


def test_tiles_cut_large_views_and_are_noted(pipeline):
    expected, noted = pipeline("a ball", **STEPS).images, described_settings(pipeline)
    pipeline.enable_vae_tiling()
    assert torch.equal(pipeline("a ball", **STEPS).images, expected)  # views of half the autoencoder's own size
    assert described_settings(pipeline) == noted | {"vae_tiling": True}
    sizes = pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size
    pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = 4, 16
    tiled = pipeline("a ball", **STEPS).images
    assert tiled.shape == expected.shape
    assert 0 < (tiled - expected).abs().max() < 1
    pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = sizes
    pipeline.disable_vae_tiling()


def test_an_autoencoder_without_a_switch_is_named(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "vae", AutoencoderTiny())
    pipeline.enable_vae_slicing()
    pipeline.enable_vae_tiling()
    monkeypatch.setattr(pipeline, "vae", torch.nn.Identity())
    with pytest.raises(ValueError, match=r"vae must support slicing .*; got Identity"):
        pipeline.enable_vae_slicing()
    with pytest.raises(ValueError, match=r"vae must support tiling.*; got Identity"):
        pipeline.enable_vae_tiling()


@pytest.mark.parametrize("offload", [None, "model", "sequential"])
def test_the_command_line_sets_them(pipeline, offload):
    args = MemoryOptions(views_per_chunk=2, vae_slicing=True, vae_tiling=True, cpu_offload=offload)
    found = with_memory_switches(pipeline, args, "cpu")
    assert found is pipeline
    assert (found.views_per_chunk, found.vae.use_slicing, found.vae.use_tiling) == (2, True, True)
    assert hasattr(found.unet, "_hf_hook") is (offload is not None)
    assert found.unet.conv_in.weight.is_meta is (offload == "sequential")
    found.remove_all_hooks()
    found.set_views_per_chunk(None)
    found.disable_vae_slicing()
    found.disable_vae_tiling()


def test_dtype_and_device_move_all_parts(tmp_path):
    pipeline = make_pipeline(tmp_path / "base")
    assert pipeline.to("cpu", torch.bfloat16) is pipeline
    assert pipeline.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    parts = [getattr(pipeline, name) for name in ("unet", "adapter", "vae", "text_encoder")]
    assert {part.dtype for part in parts} == {torch.bfloat16}
    assert {part.device.type for part in parts} == {"cpu"}


@pytest.mark.parametrize("name", tiny_bases.FAMILIES)
def test_model_offload_fetches_the_text_encoders_of_every_family(name, monkeypatch):
    """Once for the prompt and once for the negative prompt, and before any weight of theirs is read."""
    base, rig = tiny_bases.make(name), Rig([(0, 0, 90)], height=64, width=64)
    adapter = base.new_adapter({"init_args": {"head_dim": 8}})
    pipeline = MultiViewPipeline.from_backbone(base, adapter, task=PanoramaTask(), views={"rig": rig})
    pipeline.set_progress_bar_config(disable=True)
    fetched, fetch = [], CpuOffload.pre_forward
    monkeypatch.setattr(
        CpuOffload, "pre_forward", lambda hook, part, *a, **k: fetched.append(part) or fetch(hook, part, *a, **k)
    )
    pipeline.enable_model_cpu_offload(device="cpu")
    sampling = Sampling(num_inference_steps=1, guidance_scale=2)
    pipeline.generate(rig_batch(rig, [["a red lamp"]]), sampling, decode=False)
    assert [part is pipeline.text_encoder for part in fetched][:3] == [True, True, False]
