"""A LoRA of the base: diffusers' own files, made here from a config, on the tiny base."""

import re
import sys

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict

from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.sample_folders import described_settings
from tests.pipelines.conftest import make_pipeline

STEPS = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}
TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(autouse=True)
def unloaded(pipeline):
    yield
    pipeline.unload_lora_weights()


def lora_of(base, seed=0):
    """The tensors of a LoRA of both parts of a base, by part."""
    backbone, layers = load_backbone(base), {}
    generator = torch.Generator().manual_seed(seed)
    for part, targets in TARGETS.items():
        config = LoraConfig(r=2, lora_alpha=4, target_modules=targets)
        model = inject_adapter_in_model(config, getattr(backbone, part), adapter_name="default")
        shapes = get_peft_model_state_dict(model)
        layers[part] = {name: torch.randn(v.shape, generator=generator) * 0.3 for name, v in shapes.items()}
    return layers


def tensors(layers):
    return {f"{part}.{name}": value for part, state in layers.items() for name, value in state.items()}


@pytest.fixture(scope="module")
def layers(pipeline):
    return lora_of(pipeline.base.id)


def run(pipeline):
    return pipeline("a ball", **STEPS).images


def test_files_change_the_images_and_unloading_restores_them_bit_for_bit(pipeline, layers, tmp_path):
    before, noted, weights = run(pipeline), described_settings(pipeline), pipeline._backbone().weights_hash()
    type(pipeline).save_lora_weights(
        tmp_path, unet_lora_layers=layers["unet"], text_encoder_lora_layers=layers["text_encoder"]
    )
    pipeline.load_lora_weights(tmp_path, adapter_name="wood")
    assert pipeline.get_list_adapters() == {"unet": ["wood"], "text_encoder": ["wood"]}
    changed = run(pipeline)
    assert (changed - before).abs().max() > 0.05
    noted_lora = described_settings(pipeline)
    assert noted_lora["lora"].keys() == {"wood"}
    assert {key: value for key, value in noted_lora.items() if key != "lora"} == noted
    pipeline.unload_lora_weights()
    assert torch.equal(run(pipeline), before)
    assert described_settings(pipeline) == noted
    assert pipeline._backbone().weights_hash() == weights == pipeline.base.weights_hash


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_matches_weights_merged_by_hand(pipeline, layers, part):
    # An oracle: W + scale B A, written into the base's own layers (the scale is alpha over rank, 1 without alpha).
    state = layers[part]
    pipeline.load_lora_weights(tensors({part: state}))
    found = run(pipeline)
    pipeline.unload_lora_weights()
    model = getattr(pipeline, part)
    names = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
    kept = {}
    with torch.no_grad():
        for name in names:
            weight = model.get_submodule(name).weight
            kept[name] = weight.clone()
            weight += state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    expected = run(pipeline)
    with torch.no_grad():
        for name, value in kept.items():
            model.get_submodule(name).weight.copy_(value)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_strength_two_at_once_and_fusing(pipeline, layers):
    before = run(pipeline)
    pipeline.load_lora_weights(tensors(layers))
    pipeline.load_lora_weights(tensors(lora_of(pipeline.base.id, seed=1)))
    assert pipeline.get_list_adapters()["text_encoder"] == ["default_0", "default_1"]
    images = []
    for strength in ([0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [1.0, 1.0]):
        pipeline.set_adapters(["default_0", "default_1"], strength)
        images.append(run(pipeline))
    torch.testing.assert_close(images[0], before)
    assert all((a - b).abs().max() > 0.02 for i, a in enumerate(images) for b in images[:i])
    pipeline.fuse_lora()
    torch.testing.assert_close(run(pipeline), images[3], atol=1e-4, rtol=0)
    pipeline.unfuse_lora()
    torch.testing.assert_close(run(pipeline), images[3], atol=1e-4, rtol=0)
    pipeline.set_adapters(["default_0"])
    torch.testing.assert_close(run(pipeline), images[1], atol=1e-4, rtol=0)


def test_samples_note_what_a_lora_holds_how_strong_it_is_and_that_it_is_fused(pipeline, layers):
    plain, noted = described_settings(pipeline), []
    for seed, strength, part in ((0, 1.0, "unet"), (1, 1.0, "unet"), (1, 0.5, "unet"), (0, 1.0, "text_encoder")):
        state = {part: layers[part] if seed == 0 else lora_of(pipeline.base.id, seed)[part]}
        pipeline.load_lora_weights(tensors(state))
        pipeline.set_adapters("default_0", strength)
        noted.append(described_settings(pipeline))
        assert noted[-1]["lora"]["default_0"]["scale"] == [strength]
        pipeline.unload_lora_weights()
    assert all(a != b for i, a in enumerate(noted) for b in noted[:i])
    pipeline.load_lora_weights(tensors({"unet": layers["unet"]}))
    pipeline.fuse_lora()
    fused = described_settings(pipeline)
    assert "lora" not in fused
    assert fused["fused_lora"] == [noted[0]["lora"]]
    pipeline.unfuse_lora()
    assert described_settings(pipeline) == noted[0]
    pipeline.unload_lora_weights()
    assert described_settings(pipeline) == plain


def test_text_encoder_names_of_older_libraries(pipeline, layers):
    state = layers["text_encoder"]
    pipeline.load_lora_weights(tensors({"text_encoder": state}))
    expected = run(pipeline)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights({f"text_encoder.text_model.{name}": value for name, value in state.items()})
    assert torch.equal(run(pipeline), expected)


def test_a_lora_of_another_base_is_refused_and_leaves_nothing(pipeline, layers):
    before = run(pipeline)
    wide = {name: value.repeat(2, 1) if "lora_B" in name else value for name, value in layers["unet"].items()}
    deep = {name.replace("layers.0", "layers.7"): value for name, value in layers["text_encoder"].items()}
    wrong = [
        (tensors({"unet": wide}), "LoRA must be readable and fit the base; got .*size mismatch"),
        (tensors(layers | {"text_encoder": deep}), "weights for a text encoder, 4 of which match"),
        (
            {"transformer.x.lora_A.weight": torch.zeros(2, 2)},
            "LoRA must have weights for the base's unet or text_encoder",
        ),
    ]
    for state, message in wrong:
        with pytest.raises(ValueError, match=message):
            pipeline.load_lora_weights(state)
        assert not any(pipeline.get_list_adapters().values())
    assert torch.equal(run(pipeline), before)
    pipeline.load_lora_weights(tensors(layers), adapter_name="good")
    good = run(pipeline)
    with pytest.raises(ValueError, match="LoRA must be readable and fit the base"):
        pipeline.load_lora_weights(wrong[1][0], adapter_name="bad")
    assert pipeline.get_list_adapters() == {"unet": ["good"], "text_encoder": ["good"]}
    pipeline.set_adapters("good")
    assert torch.equal(run(pipeline), good)


def test_missing_files_libraries_and_offloaded_weights(pipeline, layers, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"LoRA must be readable .*in {tmp_path}"):
        pipeline.load_lora_weights(tmp_path)
    pipeline.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="LoRA must be loaded before CPU offload is enabled"):
        pipeline.load_lora_weights(tensors(layers))
    pipeline.remove_all_hooks()
    pipeline.load_lora_weights(tensors(layers))
    expected = run(pipeline)
    pipeline.enable_sequential_cpu_offload(device="cpu")
    assert torch.equal(run(pipeline), expected)
    pipeline.remove_all_hooks()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="load_lora_weights requires the library peft"):
        pipeline.load_lora_weights(tensors(layers))


def kohya(layers, **alphas):
    """A file with kohya's names, as training scripts write them; layers of the given ranks and alphas."""
    state, generator = {}, torch.Generator().manual_seed(0)
    for name, (layer, rank) in layers.items():
        rows, columns = layer.weight.shape[:2]
        kernel = layer.weight.shape[2:]
        down, up = (rank, columns, *kernel), (rows, rank, *(1 for _ in kernel))
        state[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator) * 0.2
        state[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator) * 0.2
        if name in alphas:
            state[f"{name}.alpha"] = torch.tensor(alphas[name])
    return state


def test_kohyas_ranks_and_alphas_of_attention_convolution_and_text_match_weights_merged_by_hand(pipeline):
    unet, text = pipeline.unet, pipeline.text_encoder
    modules = dict(unet.named_modules())
    query = next(name for name in modules if name.endswith("attn1.to_q"))
    word = next(name for name, _ in text.named_modules() if name.endswith("0.self_attn.q_proj"))
    layers = {
        "lora_unet_" + query.replace(".", "_"): (modules[query], 1),
        "lora_unet_down_blocks_0_resnets_0_conv1": (modules["down_blocks.0.resnets.0.conv1"], 2),
        "lora_te_text_model_" + word.removeprefix("text_model.").replace(".", "_"): (text.get_submodule(word), 3),
    }
    alphas = dict(zip(layers, (0.5, 6.0, 3.0), strict=True))
    state = kohya(layers, **alphas)
    pipeline.load_lora_weights(state)
    found = run(pipeline)
    pipeline.unload_lora_weights()
    kept = {name: layer.weight.detach().clone() for name, (layer, _) in layers.items()}
    with torch.no_grad():
        for name, (layer, rank) in layers.items():
            down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
            layer.weight += torch.einsum("or...,ri...->oi...", up, down) * (alphas[name] / rank)
    expected = run(pipeline)
    with torch.no_grad():
        for name, (layer, _) in layers.items():
            layer.weight.copy_(kept[name])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("lora_unet_x.dora_scale", "DoRA"),
        ("unet.x.lora_magnitude_vector", "DoRA"),
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.lora_mid.weight", "middle factor"),
        ("lora_unet_x.diff", "whole weights"),
        ("lora_unet_conv_norm_out.w_norm", "whole weights"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "second text encoder"),
        ("text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight", "second text encoder"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight", "original code"),
        ("string_to_param.*", "names that no LoRA has"),
    ],
)
def test_a_file_that_would_be_used_in_part_is_refused(pipeline, layers, name, form):
    state = tensors({"unet": layers["unet"]}) | {name: torch.ones(2, 2)}
    with pytest.raises(ValueError, match=f"LoRA must be readable and fit the base; got .*{form}.*{re.escape(name)}"):
        pipeline.load_lora_weights(state)
    assert not any(pipeline.get_list_adapters().values())


def test_layers_that_the_base_lacks_are_refused(pipeline, layers):
    deep = {name.replace("down_blocks.", "down_blocks.7", 1): value for name, value in layers["unet"].items()}
    with pytest.raises(ValueError, match="LoRA must be readable and fit the base; got"):
        pipeline.load_lora_weights(tensors({"unet": layers["unet"] | deep}))
    assert not any(pipeline.get_list_adapters().values())
