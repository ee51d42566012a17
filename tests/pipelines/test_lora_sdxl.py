"""LoRA files of SDXL in the forms that circulate, against weights merged by hand; two text encoders."""

import pytest
import torch

from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.sample_folders import described_settings
from tests import tiny_bases

# By part of the base: the layer as diffusers names it, and as kohya's scripts, which name the UNet's original code, do.
LAYERS = {
    "unet": {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": "middle_block_1_transformer_blocks_0_attn1_to_q",
        "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2": "input_blocks_3_1_transformer_blocks_1_ff_net_2",
        "mid_block.resnets.1.conv1": "middle_block_2_in_layers_2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_1_2_conv",
        "up_blocks.1.resnets.0.time_emb_proj": "output_blocks_2_0_emb_layers_1",
        "conv_in": "input_blocks_0_0",
    },
    "text_encoder": {
        "encoder.layers.0.self_attn.q_proj": "text_model_encoder_layers_0_self_attn_q_proj",
        "encoder.layers.0.mlp.fc1": "text_model_encoder_layers_0_mlp_fc1",
    },
    "text_encoder_2": {
        "text_model.encoder.layers.0.self_attn.out_proj": "text_model_encoder_layers_0_self_attn_out_proj",
        "text_projection": "text_projection",
    },
}
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


@pytest.fixture(scope="module")
def pipeline():
    made = MVDiffusionPanoramaPipeline.from_backbone(
        tiny_bases.make("sdxl"), rig=RingRig(num_views=2, fov_deg=120.0, height=32, width=32)
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(autouse=True)
def unloaded(pipeline):
    yield
    pipeline.unload_lora_weights()


def run(pipeline):
    return pipeline("a ball", seed=1, num_inference_steps=2, guidance_scale=2.0, output_type="pt").images


def part_of(pipeline, part):
    return pipeline.unet if part == "unet" else pipeline.text_encoder.encoders[part]


@pytest.fixture(scope="module")
def updates(pipeline):
    """Low-rank factors and alpha of each layer, by part and name; ranks and alphas differ."""
    generator, found = torch.Generator().manual_seed(0), {}
    for part, names in LAYERS.items():
        for number, name in enumerate(names):
            weight, rank = part_of(pipeline, part).get_submodule(name).weight, 1 + number % 2
            down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.3
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator) * 0.3
            found[part, name] = (down, up, 0.5 + 0.5 * number)
    return found


@pytest.fixture(scope="module")
def expected(pipeline, updates):
    """Images with W + alpha / rank * up down in the place of W."""
    kept = {}
    with torch.no_grad():
        for (part, name), (down, up, alpha) in updates.items():
            weight = kept[part, name] = part_of(pipeline, part).get_submodule(name).weight
            kept[part, name] = weight.clone()
            weight += torch.einsum("or...,ri...->oi...", up, down) * (alpha / len(down))
        images = run(pipeline)
        for (part, name), weight in kept.items():
            part_of(pipeline, part).get_submodule(name).weight.copy_(weight)
    return images


def kohya(updates, original=True):
    state = {}
    for (part, name), (down, up, alpha) in updates.items():
        inner = LAYERS[part][name] if original or part != "unet" else name.replace(".", "_")
        base = f"{KOHYA[part]}_{inner}"
        state |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
        if alpha != len(down):  # as the scripts read a layer without alpha
            state[f"{base}.alpha"] = torch.tensor(alpha)
    return state


def peft(updates):
    """Files of peft have no alpha for each layer: the scale is in the weights."""
    state = {}
    for (part, name), (down, up, alpha) in updates.items():
        state |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up * (alpha / len(down))}
    return state


FORMS = {"kohya": kohya, "kohya with diffusers' names": lambda found: kohya(found, original=False), "peft": peft}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_gives_the_images_of_weights_merged_by_hand_and_unloads(pipeline, updates, expected, form):
    before = run(pipeline)
    pipeline.load_lora_weights(FORMS[form](updates), adapter_name="wood")
    assert len(pipeline.lora_layers("wood")) == len(updates)
    parts = {"unet": ["wood"], "text_encoder_1": ["wood"], "text_encoder_2": ["wood"]}
    assert pipeline.get_list_adapters() == parts
    assert (expected - before).abs().max() > 0.05
    torch.testing.assert_close(run(pipeline), expected, atol=1e-4, rtol=0)
    pipeline.unload_lora_weights()
    assert torch.equal(run(pipeline), before)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_each_text_encoder_counts_and_obeys_scales_and_fusing(pipeline, updates, part):
    before = run(pipeline)
    pipeline.load_lora_weights(kohya({key: value for key, value in updates.items() if key[0] == part}))
    full, noted = run(pipeline), described_settings(pipeline)
    assert (full - before).abs().max() > 1e-3
    pipeline.set_adapters("default_0", 0.0)
    torch.testing.assert_close(run(pipeline), before, atol=1e-5, rtol=0)
    pipeline.set_adapters("default_0", 1.0)
    pipeline.fuse_lora()
    torch.testing.assert_close(run(pipeline), full, atol=1e-4, rtol=0)
    assert described_settings(pipeline)["fused_lora"] == [noted["lora"]]
    pipeline.unfuse_lora()
    torch.testing.assert_close(run(pipeline), full, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.dora_scale", "DoRA"),
        ("lora_unet_middle_block_1_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_input_blocks_9_1_transformer_blocks_0_attn1_to_q.lora_down.weight", ""),
        ("lora_te2_text_model_encoder_layers_7_mlp_fc1.lora_down.weight", "weights for a text encoder"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", ""),  # two sets of names
        ("lora_unet_add_embedding_linear_1.lora_down.weight", "weights for 12 layers, 11 of which"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", ""),
    ],
)
def test_a_file_of_which_a_part_would_be_left_out_is_refused_and_leaves_nothing(pipeline, updates, name, reason):
    extra = {name: torch.ones(2, 16)}
    if name.endswith("lora_down.weight"):
        extra[name.replace("lora_down", "lora_up")] = torch.ones(16, 2)
    with pytest.raises(ValueError, match=f"LoRA must .*got .*{reason}"):
        pipeline.load_lora_weights(kohya(updates) | extra)
    assert not any(pipeline.get_list_adapters().values())
