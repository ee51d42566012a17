"""Published checkpoints (docs/checkpoints.md): names of weights, strictly, both ways."""

import pytest
import torch

from mvdiff.interop.attention import CLASS_PATH
from mvdiff.interop.keys import (
    ATTENTION,
    adapter_state,
    base_name,
    file_kind,
    model_states,
    upstream_base_name,
    upstream_state,
)
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from tests.interop.files import attention_layout, attention_weights, base_weights
from tests.tiny import tiny_base

RING = {"attention": {"class_path": CLASS_PATH}}
DEPTH = {
    "attention": {"class_path": CLASS_PATH, "init_args": {"depth": True}},
    **{"residual": True, "image_condition": True, "mid_place": "after_mid_block"},
}


def adapter(depth=False, widths=(32, 64, 64)):
    return MultiViewAdapter(list(widths), widths[-1], list(widths[::-1]), **(DEPTH if depth else RING))


def taken(weights, one):
    [found] = model_states(weights, {ATTENTION: one}, "pano.ckpt", [ATTENTION]).values()
    return adapter_state(found, one.mid_block.depth, "pano.ckpt")


def base_modules(folder):
    backbone = load_backbone(tiny_base(folder))
    return backbone, {part: getattr(backbone, part) for part in ("unet", "vae", "text_encoder")}


@pytest.mark.parametrize(
    ("depth", "keys", "parameters", "frequencies"),
    # Nine blocks of 14 keys; or nine of 20 (six of the residual block), 2 of conv_in and 8 blocks of 8. Frequencies:
    # a quarter of the channels, 9 blocks of 320, 640, 1280, 1280, 1280, ... = 8320 channels in all; half for depth.
    [(False, 126, 147_572_480, 2_080), (True, 246, 341_394_560, 4_160)],
)
def test_names_shapes_and_sizes_for_stable_diffusion_2(depth, keys, parameters, frequencies):
    with torch.device("meta"):
        state = upstream_state(MultiViewAdapter(**(DEPTH if depth else RING)))
    assert {name: tuple(value.shape) for name, value in state.items()} == attention_layout(depth=depth)
    assert len(state) == keys
    sizes = {name: value.numel() for name, value in state.items()}
    assert sum(size for name, size in sizes.items() if not name.endswith("freq_bands")) == parameters
    assert sum(size for name, size in sizes.items() if name.endswith("freq_bands")) == frequencies


@pytest.mark.parametrize("depth", [False, True])
def test_weights_come_back_bit_for_bit(depth):
    weights = attention_weights((32, 64, 64), depth)
    one = adapter(depth)
    one.load_state_dict(taken(weights, one))
    back = upstream_state(one)
    assert set(back) == set(weights)
    for name, value in weights.items():
        assert torch.equal(back[name], value), name


def test_every_missing_and_left_over_name_of_all_parts_is_listed_once(tmp_path):
    backbone, modules = base_modules(tmp_path)
    weights = base_weights(backbone) | attention_weights((32, 64, 64))
    gone = [name for name in weights if "cp_blocks_mid" in name and "norm" in name]
    gone += [
        "mv_base_model.unet.conv_out.bias",
        "text_encoder.text_model.final_layer_norm.bias",
        "vae.encoder.mid_block.attentions.0.query.bias",
    ]
    for name in gone:
        del weights[name]
    extra = ["mv_base_model.cp_blocks_mid.extra", "other", "text_encoder.text_model.more", "vae.decoder.strange"]
    weights |= {name: torch.zeros(1) for name in extra}
    again = "vae.encoder.mid_block.attentions.0.to_k.bias"  # beside the file's key.bias
    weights[again] = weights["vae.encoder.mid_block.attentions.0.key.bias"]
    changed = {
        "mv_base_model.cp_blocks_encoder.0.transformer.attn1.to_q.weight": (3, 3),
        "vae.encoder.conv_in.bias": (5,),
        "vae.encoder.mid_block.attentions.0.value.weight": (7, 7, 3, 3),
    }
    shapes = {name: list(weights[name].shape) for name in changed}
    weights |= {name: torch.zeros(shape) for name, shape in changed.items()}
    with pytest.raises(ValueError, match="weights of the checkpoint must match the model, 98 of attention,") as error:
        model_states(weights, {ATTENTION: adapter(), **modules}, "pano.ckpt", [ATTENTION])
    listed = "; ".join(
        [
            f"got 7 missing: {', '.join(sorted(gone))}",
            f"5 unexpected: {', '.join(sorted([*extra, again]))}",
            "3 with another shape: "
            + ", ".join(f"{name} {list(shape)} for {shapes[name]}" for name, shape in sorted(changed.items())),
            "in pano.ckpt. Check --task and --base",
        ]
    )
    assert listed in str(error.value)


def test_a_part_that_is_needed_is_listed_where_it_is_missing(tmp_path):
    backbone, modules = base_modules(tmp_path)
    unet = {name: value for name, value in base_weights(backbone).items() if ".unet." in name}
    assert list(model_states(unet, modules, "file", ["unet"])) == ["unet"]
    bare = {name.removeprefix("mv_base_model."): value for name, value in unet.items()}
    with pytest.raises(ValueError, match=f"got {len(unet)} missing: mv_base_model.unet.*; {len(unet)} unexp") as error:
        model_states(bare, modules, "file", ["unet"])
    assert all(f" {name}" in str(error.value) for name in (*unet, *bare))


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize(("dtype", "infinite"), [(torch.float16, True), (torch.bfloat16, False)])
def test_frequencies_of_half_precision_are_computed_anew(depth, dtype, infinite):
    """32 bands: half precision ends at 65,504, which 2^k passes at k = 16 and 5000^(2.5 k / 32) at k = 17."""
    width = 64 if depth else 128
    expected = torch.tensor([5000.0 ** (2.5 * k / 32) if depth else 2.0**k for k in range(32)])
    weights = attention_weights((width,), depth)
    weights = {name: (expected if name.endswith("bands") else value).to(dtype) for name, value in weights.items()}
    name = f"mv_base_model.cp_blocks_mid.{'attn1.' * depth}pe.freq_bands"
    assert weights[name].isinf().any() == infinite
    one = adapter(depth, (width,))
    found = taken(weights, one)
    for ours, value in found.items():
        assert value.dtype == torch.float32
        if ours.endswith("freq_bands"):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    to_q = name.replace("pe.freq_bands", "transformer.attn1.to_q.weight")
    assert torch.equal(found["mid_block.to_q.weight"], weights[to_q].float())
    for place, value in ((5, 1.01), (2, float("inf")), (3, float("nan")), (31, 1000.0)):
        wrong = weights[name].clone()
        wrong[place] = wrong[place] * value if value == 1.01 else value
        if dtype == torch.bfloat16 and value == 1.01:
            wrong[place] *= 1.02  # of 8 bits
        text = rf"must be the 2023 release's, rounded; got others in {name}, in pano.ckpt"
        with pytest.raises(ValueError, match=text):
            taken(weights | {name: wrong}, one)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mv_base_model.cp_blocks_mid.transformer.norm1.bias", float("nan")),
        ("mv_base_model.cp_blocks_decoder.1.pe.freq_bands", float("inf")),  # once half, then saved in float32
    ],
)
def test_weights_that_are_not_finite_are_named(name, value):
    weights = attention_weights((32, 64, 64))
    weights[name].view(-1)[3] = value
    with pytest.raises(ValueError, match=rf"must be finite; got infinity or NaN in {name}, in pano.ckpt"):
        taken(weights, adapter())


def test_kinds_of_files():
    assert file_kind(attention_layout()) == "panorama"
    assert file_kind(attention_layout(depth=True)) == "depth"
    assert file_kind(["mv_base_model.unet.conv_in.weight", "vae.x"]) == "single-view"
    assert file_kind(["model.diffusion_model.x"]) == "none"


def test_old_names_of_the_base_are_translated_both_ways(tmp_path):
    backbone, modules = base_modules(tmp_path)
    weights = base_weights(backbone)
    linear = [name for name in weights if name.endswith((".query.weight", ".proj_attn.weight"))]
    assert len(linear) == 4
    older = weights | {name: weights[name][..., None, None] for name in linear}  # of before the layers were linear
    for names in (weights, older):
        found = model_states(names, modules, "file")
        for part, module in modules.items():
            state = module.state_dict()
            assert set(found[part]) == set(state)
            assert all(torch.equal(found[part][name], value) for name, value in state.items())
    back = {upstream_base_name(part, name) for part, state in found.items() for name in state}
    assert back == set(weights) - {"text_encoder.text_model.embeddings.position_ids"}
    block = "encoder.mid_block.attentions.0"
    assert base_name(f"vae.{block}.proj_attn.bias") == ("vae", f"{block}.to_out.0.bias")
    assert base_name("mv_base_model.cp_blocks_mid.x") is None


def test_weights_of_another_attention_have_no_names_there():
    with pytest.raises(
        ValueError, match=r"attention of the model must be UpstreamAttention.* got CorrespondenceAwareAttention"
    ):
        upstream_state(MultiViewAdapter([32], 32, [32]))
    for settings in (DEPTH | {"image_condition": False}, RING | {"residual": True, "image_condition": True}):
        with pytest.raises(ValueError, match="residual and image_condition both or neither"):
            upstream_state(MultiViewAdapter([32], 32, [32], **settings))


def test_adapters_come_back_from_disk(tmp_path):
    one = adapter(depth=True)
    one.load_state_dict(taken(attention_weights((32, 64, 64), depth=True), one))
    one.save_pretrained(tmp_path)
    for dtype in (None, torch.bfloat16):
        loaded = MultiViewAdapter.from_pretrained(tmp_path, **({} if dtype is None else {"dtype": dtype}))
        for name, value in one.state_dict().items():
            expected = value if dtype is None or name.endswith("freq_bands") else value.to(dtype)
            assert torch.equal(loaded.state_dict()[name], expected), name
