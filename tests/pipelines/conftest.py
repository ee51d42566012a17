import pytest
import torch

from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.calls import rig_batch
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.pipelines.sample_folders import GenerationCounts, generate_samples
from mvdiff.settings import Controls, Sampling
from tests.tiny import tiny_base

RING = RingRig(num_views=4, fov_deg=120.0, height=32, width=32)
UNEVEN = Rig([(0, 0, 80), (50, 20, 90), (80, -30, 70)], height=32, width=48)


def trained_like(adapter: MultiViewAdapter, seed: int = 0) -> MultiViewAdapter:
    """Give a fresh adapter weights that do something, so that views depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapter


def make_pipeline(folder, rig: Rig = RING, **settings) -> MVDiffusionPanoramaPipeline:
    """Write a tiny base to `folder` and put a pipeline with a random adapter on it."""
    backbone = load_backbone(tiny_base(folder, **settings))
    adapter = trained_like(MultiViewAdapter.from_unet(backbone.unet))
    base = BaseReference(str(folder), weights_hash=backbone.weights_hash())
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(
        backbone, adapter, rig=rig, prompt_prefix="this is one view of a scene ", base=base
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_entries(pipeline, entries, out, *, rig: Rig | None = None, **options) -> GenerationCounts:
    """Write the samples of prompt entries; `options` of sampling, controls and `generate_samples` alike."""
    rig = pipeline.rig if rig is None else rig
    fields = {name: options.pop(name) for name in ("images", "known", "notes") if name in options}
    prompts = expand_prompts([entry.prompt for entry in entries], rig.num_views)
    batch = rig_batch(rig, prompts, [entry.sample_id for entry in entries], **fields)
    return generate_samples(pipeline, batch, out, rig=rig, **grouped(options))


def grouped(options: dict) -> dict:
    """Sort flat options into the groups of `mvdiff.settings`."""
    groups = {}
    for name, kind in (("sampling", Sampling), ("controls", Controls)):
        taken = {key: options[key] for key in kind.__dataclass_fields__ if key in options}
        groups[name] = kind(**taken)
        options = {key: value for key, value in options.items() if key not in taken}
    return options | groups


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "base")


@pytest.fixture(scope="session")
def model_folder(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    pipeline.save_pretrained(folder)
    return folder
