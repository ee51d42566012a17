"""Published checkpoints (docs/checkpoints.md): names of weights, strictly, both ways."""

import pytest
import torch

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.upstream.keys import (
    adapter_state,
    base_states,
    check_names,
    file_kind,
    upstream_base_state,
    upstream_state,
)
from tests.models.upstream.files import attention_layout, attention_weights

DEPTH = {"residual": True, "image_condition": True, "kernel_size": 1, "mid_place": "after_mid_block"}


def adapter(depth=False, widths=(32, 64, 64)):
    settings = DEPTH if depth else {}
    return MultiViewAdapter(list(widths), widths[-1], list(widths[::-1]), variant="upstream", **settings)


@pytest.mark.parametrize(
    ("depth", "keys", "parameters", "frequencies"),
    # Nine blocks of 14 keys; or nine of 20 (six of the residual block), 2 of conv_in and 8 blocks of 8. Frequencies:
    # a quarter of the channels, 9 blocks of 320, 640, 1280, 1280, 1280, ... = 8320 channels in all; half for depth.
    [(False, 126, 147_572_480, 2_080), (True, 246, 341_394_560, 4_160)],
)
def test_names_shapes_and_sizes_for_stable_diffusion_2(depth, keys, parameters, frequencies):
    with torch.device("meta"):
        state = upstream_state(MultiViewAdapter(variant="upstream", **(DEPTH if depth else {})))
    assert {name: tuple(value.shape) for name, value in state.items()} == attention_layout(depth=depth)
    assert len(state) == keys
    sizes = {name: value.numel() for name, value in state.items()}
    assert sum(size for name, size in sizes.items() if not name.endswith("freq_bands")) == parameters
    assert sum(size for name, size in sizes.items() if name.endswith("freq_bands")) == frequencies


@pytest.mark.parametrize("depth", [False, True])
def test_weights_come_back_bit_for_bit(depth):
    weights = attention_weights((32, 64, 64), depth)
    one = adapter(depth)
    one.load_state_dict(adapter_state(weights, one, "file"))
    back = upstream_state(one)
    assert set(back) == set(weights)
    for name, value in weights.items():
        assert torch.equal(back[name], value), name


def test_every_missing_and_left_over_name_is_listed():
    weights = attention_weights((32, 64, 64))
    gone = [name for name in weights if "cp_blocks_mid" in name and "norm" in name]
    for name in gone:
        del weights[name]
    weights["mv_base_model.cp_blocks_mid.extra"] = weights["other"] = torch.zeros(1)
    changed = "mv_base_model.cp_blocks_encoder.0.transformer.attn1.to_q.weight"
    weights[changed] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="attention's weights must be exactly the 98 of the model") as error:
        adapter_state(weights, adapter(), "pano.ckpt")
    for text in (
        *gone,
        "4 missing",
        "2 unexpected: mv_base_model.cp_blocks_mid.extra, other;",
        f"1 of another shape: {changed} [3, 3] for [32, 32]; in pano.ckpt. Check --task and --base",
    ):
        assert text in str(error.value)


def test_kinds_of_files():
    assert file_kind(attention_layout()) == "panorama"
    assert file_kind(attention_layout(depth=True)) == "depth"
    assert file_kind(["mv_base_model.unet.conv_in.weight", "vae.x"]) == "single-view"
    assert file_kind(["model.diffusion_model.x"]) == "none"


def test_old_names_of_the_base_are_translated_both_ways():
    block = "vae.encoder.mid_block.attentions.0"
    old = {
        f"{block}.query.weight": torch.randn(4, 4),
        f"{block}.key.bias": torch.randn(4),
        f"{block}.value.weight": torch.randn(4, 4, 1, 1),  # of before the layers were linear
        f"{block}.proj_attn.weight": torch.randn(4, 4),
        f"{block}.group_norm.weight": torch.randn(4),
        "text_encoder.text_model.embeddings.position_ids": torch.arange(3),
        "text_encoder.text_model.final_layer_norm.bias": torch.randn(4),
        "mv_base_model.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": torch.randn(4, 4),
    }
    parts = base_states(old)
    new = "encoder.mid_block.attentions.0"
    assert list(parts["vae"]) == [
        f"{new}.{name}" for name in ("to_q.weight", "to_k.bias", "to_v.weight", "to_out.0.weight", "group_norm.weight")
    ]
    assert torch.equal(parts["vae"][f"{new}.to_v.weight"], old[f"{block}.value.weight"][:, :, 0, 0])
    assert list(parts["text_encoder"]) == ["final_layer_norm.bias"]
    back = {name for part, state in parts.items() for name in upstream_base_state(part, state)}
    assert back == set(old) - {"text_encoder.text_model.embeddings.position_ids"}


def test_weights_of_the_paper_variant_have_no_names_there():
    with pytest.raises(ValueError, match=r"model must be of the upstream variant.* got one of the paper variant"):
        upstream_state(MultiViewAdapter([32], 32, [32]))
    with pytest.raises(ValueError, match="residual and image conditions together or neither"):
        upstream_state(MultiViewAdapter([32], 32, [32], variant="upstream", residual=True, kernel_size=1))
    check_names({}, {}, "nothing", "nowhere")


def test_adapters_of_the_upstream_variant_come_back_from_disk(tmp_path):
    one = adapter(depth=True)
    one.load_state_dict(adapter_state(attention_weights((32, 64, 64), depth=True), one, "file"))
    one.save_pretrained(tmp_path)
    for dtype in (None, torch.bfloat16):
        loaded = MultiViewAdapter.from_pretrained(tmp_path, **({} if dtype is None else {"dtype": dtype}))
        for name, value in one.state_dict().items():
            expected = value if dtype is None or name.endswith("freq_bands") else value.to(dtype)
            assert torch.equal(loaded.state_dict()[name], expected), name
