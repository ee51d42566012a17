import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvdiff.models.adapter import MultiViewAdapter


def small(attention=None, **settings):
    attention = {"init_args": attention} if attention else None
    return MultiViewAdapter([32, 64], 64, [64, 32], attention, **settings)


def test_size_for_stable_diffusion_2_is_the_published_one():
    # Per block of C channels: q, k, v, out 4 C^2 + C; GEGLU 8 C^2 + 8 C and 4 C^2 + C; two norms 4 C: 16 C^2 + 14 C.
    with torch.device("meta"):
        adapter = MultiViewAdapter()
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 147_572_480


def test_size_of_the_depth_adapter_is_the_published_one():
    # Residual block of C channels: two convolutions 18 C^2, two norms 4 C; the image conditions 27,900,800 in all.
    with torch.device("meta"):
        residual, whole = (MultiViewAdapter(residual=True, image_condition=flag) for flag in (False, True))
    assert sum(parameter.numel() for parameter in residual.parameters()) == 313_493_760
    assert sum(parameter.numel() for parameter in whole.parameters()) == 341_394_560


def test_saving_and_loading_returns_config_and_weights(tmp_path):
    adapter = small({"kernel_size": 5, "head_dim": 16, "wavelengths": (1.0, 8.0)}, mid_place="after_mid_block")
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    adapter.save_pretrained(tmp_path)
    loaded = MultiViewAdapter.from_pretrained(tmp_path)
    assert loaded.config.mid_place == "after_mid_block"
    assert loaded.config.attention == {
        "class_path": "mvdiff.models.attention.CorrespondenceAwareAttention",
        "init_args": {
            **{"kernel_size": 5, "head_dim": 16, "wavelengths": [1.0, 8.0], "min_overlap": 0.01, "neighbours": None}
        },
    }
    assert (loaded.mid_block.kernel_size, loaded.mid_block.wavelengths) == (5, (1.0, 8.0))
    assert list(loaded.state_dict()) == list(adapter.state_dict())
    for one, other in zip(loaded.parameters(), adapter.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_depth_adapter_comes_back_and_is_no_panorama_adapter(tmp_path):
    adapter = small(residual=True, image_condition=True, latent_channels=8)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    adapter.save_pretrained(tmp_path)
    loaded = MultiViewAdapter.from_pretrained(tmp_path)
    assert loaded.condition_blocks.conv_in.in_channels == 9
    assert set(adapter.state_dict()) - set(small().state_dict()) == {
        name for name in adapter.state_dict() if ".residual." in name or name.startswith("condition_blocks.")
    }
    for name, value in adapter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_condition": False}))
    with pytest.raises(ValueError, match=r"weights must match .*another model"):
        MultiViewAdapter.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["mid_block.to_x.weight"] = state.pop("mid_block.to_q.weight")
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights must match .*mid_block\.to_.*another model"):
        MultiViewAdapter.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mid_channels": 32}))
    with pytest.raises(ValueError, match="readable file of a MultiViewAdapter"):
        MultiViewAdapter.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mid_place": "before"}, "mid_place must be one of .* got 'before'"),
        ({"attention": {"kernel_size": 2}}, "kernel_size must be odd and positive; got 2"),
        (
            {"attention": {"neighbours": [[1], [2]]}},
            r"neighbours of view 1 .*got \[2\]",
        ),
        ({"attention": {"min_overlap": 2.0}}, r"min_overlap must lie in \[0, 1\]; got 2.0"),
        ({"attention": {"head_dim": 24}}, "divisible by 4 and by head_dim = 24; got 32"),
        ({"attention": {"kernel": 3}}, "unknown kernel; it takes kernel_size"),
    ],
)
def test_wrong_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        small(**settings)
