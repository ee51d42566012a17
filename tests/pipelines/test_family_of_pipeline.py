"""A pipeline keeps the family and the settings of the base that it was made of, also through a model folder."""

import json

import pytest
import torch

from mvdiff import class_paths
from mvdiff.geometry.cameras import Rig
from mvdiff.models.backbone import load_backbone
from mvdiff.models.bases.sana import SanaBase
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.base_reference import reference_to
from mvdiff.pipelines.calls import rig_batch
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.settings import CacheSettings, Sampling
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.text_states import map_states
from mvdiff.training.inputs import MultiViewInputs
from tests import tiny_bases
from tests.tiny import tiny_base

RIG = Rig([(0, 0, 90)], height=32, width=32)
FAMILY = f"{__name__}.DeafBase"
HEAD = {"init_args": {"head_dim": 8}}


class DeafBase(StableDiffusionBase):
    """Stable Diffusion that hears the same in every text."""

    def encode_prompts(self, prompts, clip_skip=None):
        return torch.ones_like(super().encode_prompts(prompts, clip_skip))


class DeafSana(SanaBase):
    """The same of SANA, as another module may define it beside a run of plain SANA."""

    def encode_prompts(self, prompts):
        return map_states(torch.ones_like, super().encode_prompts(prompts))


def pipeline_of(backbone, **settings):
    adapter = backbone.new_adapter(HEAD)
    pipeline = MultiViewPipeline.from_backbone(backbone, adapter, task=PanoramaTask(), views={"rig": RIG}, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline, prompt):
    sampling = Sampling(num_inference_steps=2, guidance_scale=1.0)
    return pipeline.generate(rig_batch(RIG, [[prompt]]), sampling, decode=False).latents


def hears(pipeline):
    return not torch.equal(latents(pipeline, "a red lamp"), latents(pipeline, "a blue table"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("family") / "base")


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setattr(class_paths, "_plugins", {__name__})


def test_sampling_uses_the_text_encoding_of_the_family(folder, allowed):
    assert hears(pipeline_of(load_backbone(folder)))
    assert not hears(pipeline_of(load_backbone(folder, family=FAMILY)))


def test_a_model_folder_opens_with_the_family_that_it_records(folder, allowed, tmp_path):
    base = load_backbone(folder, family=FAMILY)
    pipeline = pipeline_of(base, base=reference_to(base, str(folder)))
    pipeline.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "mvdiff.json").read_text())["base"]["family"] == FAMILY
    opened = MultiViewPipeline.from_pretrained(tmp_path / "model")
    opened.set_progress_bar_config(disable=True)
    assert not hears(opened)
    assert torch.equal(latents(opened, "a red lamp"), latents(pipeline, "a red lamp"))


def test_a_family_that_is_defined_elsewhere_changes_no_other_pipeline():
    base = tiny_bases.make("sana")
    assert hears(pipeline_of(base))
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    face = MVDiffusionPanoramaPipeline(**parts, adapter=base.new_adapter(HEAD), rig=RIG)
    face.set_progress_bar_config(disable=True)
    assert hears(face)
    assert not hears(pipeline_of(DeafSana(**parts)))


def test_a_replaced_part_is_used_with_the_family(folder, allowed):
    pipeline, other = (pipeline_of(load_backbone(folder, family=FAMILY)) for _ in range(2))
    before = latents(pipeline, "a red lamp")
    with torch.no_grad():
        other.unet.conv_out.weight.mul_(2)
    pipeline.unet = other.unet
    assert not torch.equal(latents(pipeline, "a red lamp"), before)
    assert not hears(pipeline)


def test_a_text_cache_tells_families_apart(folder, allowed, tmp_path):
    cache = CacheSettings(dir=str(tmp_path), latents=False)
    plain, deaf = (
        MultiViewInputs(load_backbone(folder, family=family), 0, "", cache).text([["a red lamp"]])
        for family in (None, FAMILY)
    )
    assert not torch.equal(plain, deaf)
    assert (deaf == 1).all()


def test_whether_sdxls_empty_prompt_is_zeros_comes_with_the_folder(tmp_path):
    folder = tiny_bases.write(tmp_path / "base", "sdxl")
    zeros = load_backbone(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    base = load_backbone(folder)
    pipeline = pipeline_of(base, base=reference_to(base, str(folder)))
    pipeline.save_pretrained(tmp_path / "model")
    opened = MultiViewPipeline.from_pretrained(tmp_path / "model")
    encoded, again = latents(pipeline, ""), latents(opened, "")
    assert torch.equal(encoded, again)
    assert not torch.equal(encoded, latents(pipeline_of(zeros), ""))
    cache = CacheSettings(dir=str(tmp_path / "cache"), latents=False)
    texts = [MultiViewInputs(one, 0, "", cache).text([[None]]) for one in (zeros, base)]
    assert not texts[0]["hidden_states"].any()
    assert texts[1]["hidden_states"].any()
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": "no"}))
    with pytest.raises(ValueError, match=r"force_zeros_for_empty_prompt .* got 'no'"):
        load_backbone(folder)
