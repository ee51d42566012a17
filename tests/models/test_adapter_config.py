"""Adapters of every format open: configs of before the attention had a class of its own, and those to come."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mvdiff
from mvdiff.interop.attention import UpstreamAttention
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.adapter_config import DEFAULT_ATTENTION, upgrade_config

ASSETS = Path(mvdiff.__file__).parent / "assets"
OLD = {"_class_name": "MultiViewAdapter", "down_channels": [32, 64], "mid_channels": 64, "up_channels": [64, 32]}
PAPER = {"kernel_size": 3, "head_dim": 32, "wavelengths": [0.5, 16.0], "min_overlap": 0.01, "neighbours": None}


def written(folder, config, state):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("name", "min_overlap"), [("toy-caa", 0.01), ("toy-outpaint", 0.01), ("toy-depth", 0.3)])
def test_packaged_adapters_of_the_first_format_open(name, min_overlap, tmp_path):
    folder = ASSETS / name / "adapter"
    old = json.loads((folder / "config.json").read_text())
    assert "format_version" not in old  # they prove that old ones open
    adapter = MultiViewAdapter.from_pretrained(folder)
    attention = {"class_path": DEFAULT_ATTENTION, "init_args": PAPER | {"min_overlap": min_overlap}}
    assert adapter.config.attention == attention
    kept = ("down_channels", "mid_channels", "up_channels", "mid_place", "residual", "image_condition")
    assert {key: adapter.config[key] for key in kept} == {key: old[key] for key in kept}
    adapter.save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    assert (new["format_version"], new["attention"]) == (2, attention)
    assert not {"variant", "kernel_size", "wavelengths", "_use_default_values"} & set(new)
    again = MultiViewAdapter.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in adapter.state_dict().items())
    assert MultiViewAdapter.from_config(again.config).config.attention == attention


def test_a_setting_that_an_old_config_has_not_has_its_default_of_then(tmp_path):
    adapter = MultiViewAdapter.from_config(OLD | {"kernel_size": 5, "neighbours": [[1, 2], [0], []]})
    settings = PAPER | {"kernel_size": 5, "neighbours": [[1, 2], [0], []]}
    assert adapter.config.attention == {"class_path": DEFAULT_ATTENTION, "init_args": settings}
    assert MultiViewAdapter.from_config(OLD).config.attention["init_args"] == PAPER


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"kernel_size": 3, "min_overlap": 0.01, "wavelengths": [0.5, 16.0]}, {"depth": False, "kernel_size": 3}),
        (
            {"kernel_size": 1, "residual": True, "image_condition": True, "min_overlap": 0.3, "head_dim": 16},
            {"depth": True, "head_dim": 16, "min_overlap": 0.3},
        ),
        ({"kernel_size": 1, "residual": True, "neighbours": None}, {"depth": True, "min_overlap": 0.01}),
    ],
)
def test_old_adapters_of_the_2023_release_open(settings, arguments, tmp_path):
    old = OLD | {"variant": "upstream"} | settings
    fresh = MultiViewAdapter.from_config(old)
    assert isinstance(fresh.mid_block, UpstreamAttention)
    defaults = {"depth": False, "head_dim": 32, "kernel_size": None, "min_overlap": None}
    assert fresh.config.attention["init_args"] == defaults | arguments
    assert fresh.config.residual == bool(settings.get("residual"))
    loaded = MultiViewAdapter.from_pretrained(written(tmp_path / "adapter", old, fresh.state_dict()))
    assert loaded.config.attention == fresh.config.attention


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            OLD | {"format_version": 3},
            r"format_version .* must be 2 .*; got 3\. Update mvdiff",
        ),
        (OLD | {"format_version": "2"}, r"format_version .* must be 2 .*; got '2'(\.|, in .*config\.json\.)$"),
        (OLD | {"format_version": 1}, r"format_version .* must be 2 .*; got 1(\.|, in .*config\.json\.)$"),
        (OLD | {"variant": "other"}, "variant of an adapter's config must be paper or upstream; got 'other'"),
        (OLD | {"attention": {}, "kernel_size": 3}, "with attention must .*; got kernel_size"),
    ],
)
def test_other_formats_are_refused_wherever_they_enter(config, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        upgrade_config(config)
    with pytest.raises(ValueError, match=text):
        MultiViewAdapter.from_config(config)
    with pytest.raises(ValueError, match=f"^[^;]*{text}"):
        MultiViewAdapter.from_pretrained(written(tmp_path / "adapter", config, {"x": torch.zeros(1)}))


def test_what_a_config_of_today_has_beside_its_arguments_is_named(tmp_path):
    config = OLD | {"format_version": 2, "residuals": True, "_note": "free"}
    for enter in (
        lambda: MultiViewAdapter.from_pretrained(written(tmp_path / "adapter", config, {"x": torch.zeros(1)})),
        lambda: MultiViewAdapter.from_config(config),
    ):
        with pytest.raises(ValueError, match=r"config must be .*residual.*; got residuals(\.|, in .*config\.json\.)"):
            enter()


@pytest.mark.parametrize(
    "attention",
    [
        {"class_path": "evil.Attention"},
        {"class_path": "os.system", "init_args": {"command": "touch mark"}},
        {"class_path": "mvdiff.cli.main.os.system", "init_args": {"command": "touch mark"}},
        {"class_path": DEFAULT_ATTENTION, "init_args": {"head_dim": {"class_path": "evil.Attention"}}},
    ],
    ids=str,
)
def test_hostile_folders_run_nothing(attention, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text("open('mark', 'w')")
    config = OLD | {"format_version": 2, "attention": attention}
    for enter in (
        lambda: MultiViewAdapter.from_pretrained(written(tmp_path / "adapter", config, {"x": torch.zeros(1)})),
        lambda: MultiViewAdapter.from_config(config),
    ):
        with pytest.raises(ValueError, match=r"^(class_path must|init_args of)"):
            enter()
    assert not Path("mark").exists()
