import json
import shutil
from dataclasses import replace

import pytest
import torch

from mvdiff.data.toyworld.captions import vocabulary
from mvdiff.models.backbone import base_parts, load_backbone
from mvdiff.models.fresh import FreshBase, FreshTransformer, word_tokenizer
from tests.tiny import tiny_base

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
TRANSFORMER = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 128,
    "interpolation_scale": 1,
}


def small_transformer() -> FreshTransformer:
    """Between the parts of the packaged toy base."""
    return FreshTransformer(transformer=TRANSFORMER, parts_from="mvdiff://toy-base", scheduler={"shift": 2.0})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> FreshBase:
    return FreshBase(unet=UNET, text_encoder=TEXT, vae=str(tiny_base(tmp_path_factory.mktemp("base")) / "vae"))


def test_every_word_of_the_toy_world_is_one_token():
    words = vocabulary()
    tokenizer = word_tokenizer(words, 48)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word  # start, the word, end
    caption = "a red sofa in the middle, a window, mint walls, stone floor"
    ids = tokenizer(caption).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) == 2 + len(caption.replace(",", " ,").split())
    assert tokenizer.unk_token_id not in tokenizer("Zürich at 5 o'clock?").input_ids[1:-1]


def test_a_fresh_base_is_a_function_of_its_seed_and_opens_as_a_folder(fresh, tmp_path):
    before = torch.random.get_rng_state()
    one, again, other = fresh.build(0), fresh.build(0), fresh.build(1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.weights_hash() == again.weights_hash() != other.weights_hash()
    one.save_pretrained(tmp_path / "base", torch.float16)
    opened = load_backbone(tmp_path / "base")
    assert next(opened.unet.parameters()).dtype == torch.float32
    torch.testing.assert_close(
        opened.encode_prompts(["a red ball"]), one.encode_prompts(["a red ball"]), atol=2e-3, rtol=0
    )
    assert opened.tokenizer("a red ball").input_ids == one.tokenizer("a red ball").input_ids


def test_a_fresh_base_whose_unet_takes_another_text_width_is_an_error(fresh):
    with pytest.raises(ValueError, match=r"hidden_size, 16; got 24, in the settings of a fresh base\."):
        replace(fresh, unet=UNET | {"cross_attention_dim": 24}).build(0)


def test_a_fresh_transformer_takes_the_other_parts_of_a_base_and_may_borrow_them_as_packaged(tmp_path):
    before = torch.random.get_rng_state()
    one, again, other = (small_transformer().build(seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.weights_hash() == again.weights_hash() != other.weights_hash()
    one.save_pretrained(tmp_path / "base", torch.float16)
    whole = load_backbone(tmp_path / "base")
    assert (whole.prediction_type, whole.scheduler.config.shift, whole.text_length) == ("flow", 2.0, 48)
    toy = load_backbone("mvdiff://toy-base")
    assert whole.weights_hashes(["text_encoder", "vae"]) == toy.weights_hashes(["text_encoder", "vae"])
    text = whole.encode_prompts(["A red sofa", ""])
    assert text["mask"].sum(1).tolist() == [5, 2]  # start, words, end
    real = text["mask"][0]
    torch.testing.assert_close(text["hidden_states"][0, real], toy.encode_prompts(["a red sofa"])[0, real])
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.rmtree(tmp_path / "base" / part)
    index = tmp_path / "base" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"mvdiff_parts_from": "mvdiff://toy-base"}))
    assert load_backbone(tmp_path / "base").weights_hash() == whole.weights_hash()
    parts = base_parts(tmp_path / "base")
    assert set(parts) == {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert parts["vae"].parent.name == "toy-base"


def test_a_fresh_transformer_of_another_text_width_is_an_error():
    wrong = replace(small_transformer(), transformer=TRANSFORMER | {"caption_channels": 24})
    with pytest.raises(ValueError, match=r"hidden_size, 128; got 24, in the settings of a fresh base\."):
        wrong.build(0)
