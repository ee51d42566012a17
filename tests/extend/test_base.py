"""docs/extend.md, "A base"."""

import json

import pytest
import torch

from mvdiff import class_paths
from mvdiff.batch import MultiViewBatch
from mvdiff.cli.main import main
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.backbone import load_backbone
from mvdiff.text_states import cat_states, map_states
from tests.extend.taking_through import generating, take_through
from tests.tiny import tiny_tokenizer
from tests.tiny_bases import vae
from tests.training.tiny_run import tiny_config

CLASS_PATH = "my_base.PixArtBase"
ATTENTION = {"init_args": {"head_dim": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of PixArt-Sigma in small."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    folder, tokenizer = tmp_path_factory.mktemp("pixart"), tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=4,
            cross_attention_dim=32,
            caption_channels=16,
            sample_size=8,
            use_additional_conditions=False,
        )
        t5 = T5Config(vocab_size=len(tokenizer), d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
        parts = {"transformer": transformer, "vae": vae(), "text_encoder": T5EncoderModel(t5)}
    parts |= {"tokenizer": tokenizer, "scheduler": DPMSolverMultistepScheduler()}
    for name, part in parts.items():
        part.save_pretrained(str(folder / name))
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    adapter = {"attention": ATTENTION, "every": 2}
    config = tiny_config(tmp_path_factory.mktemp("tiny"), base=str(folder), family=CLASS_PATH, adapter=adapter)
    return take_through(tmp_path_factory.mktemp("run") / "base", config, plugin="my_base")


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_only_the_views_that_see_a_change(folder):
    class_paths.allow_plugins("my_base")
    base = load_backbone(folder, family=CLASS_PATH)
    adapter = base.new_adapter(ATTENTION, every=4)
    rig = RingRig(num_views=4, fov_deg=100.0, height=32, width=48)
    K, R = (camera[None] for camera in rig.cameras())
    geometry = adapter.geometry(MultiViewBatch.from_cameras(K, R, 32, 48), base.vae_stride)
    sample = torch.randn(1, 4, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    prompts = ["a lamp", "", "a red wall", "a chair"]
    text = cat_states([base.encode_prompts([prompt]) for prompt in prompts])
    rows, timesteps = map_states(lambda one: one[None], text), torch.tensor([300])
    stock = base.predict(sample[0], timesteps.expand(4), text)
    assert torch.equal(base.multi_view(adapter)(sample, timesteps, rows, geometry)[0], stock)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    model, touched = base.multi_view(adapter), sample.clone()
    touched[:, 2] += 1
    before, after = (model(one, timesteps, rows, geometry)[0] for one in (sample, touched))
    change = (after - before).abs().amax((1, 2, 3))
    assert change[0] == 0
    assert (change[1:] > 1e-6).all()


def test_fit_generate_and_report_know_it_by_its_class_path(run, folder, tmp_path, capsys):
    assert run.described("mvdiff.json")["base"]["family"] == CLASS_PATH
    assert run.described("adapter/config.json")["sites"]["after"] == ["transformer_blocks.1", "transformer_blocks.3"]
    assert "--plugin my_base" in (run.model / "README.md").read_text()
    assert run.views("generated", "room8").shape == (3, 3, 16, 16)
    class_paths._plugins.clear()
    assert main(generating(run.folder, out=str(tmp_path / "again"))) == 1
    assert "--plugin my_base" in capsys.readouterr().err
    assert json.loads((run.folder / "results.json").read_text())


def test_without_its_class_the_folder_is_refused(folder):
    with pytest.raises(ValueError, match=r"network among UNet2DConditionModel, .*got 'PixArtTransformer2DModel'"):
        load_backbone(folder)
