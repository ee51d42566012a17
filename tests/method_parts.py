"""Tiny real models for every method: bases, models on them whose views depend on each other, and a ControlNet."""

from pathlib import Path

import torch

from mvdiff.geometry.cameras import Rig
from mvdiff.models.backbone import load_backbone
from mvdiff.models.controlnet import controlnet_from_unet
from tests.pipelines.conftest import RING, make_pipeline
from tests.pipelines.depth_pipelines import make_depth_pipeline
from tests.pipelines.test_outpaint import tiny_inpainting_base
from tests.tiny import tiny_base


def tiny_controlnet(folder: Path) -> Path:
    """Write a ControlNet of the tiny base's shape that does something."""
    plain = load_backbone(tiny_base(folder / "plain"))
    controlnet, generator = controlnet_from_unet(plain.unet, plain.vae_stride), torch.Generator().manual_seed(0)
    for parameter in controlnet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    controlnet.save_pretrained(folder / "controlnet")
    return folder / "controlnet"


def panorama_parts(folder: Path, rig: Rig = RING, seed: int = 0) -> dict[str, Path]:
    """Write what the panorama methods need: `model` of the base `base`, and the `inpainting` base."""
    make_pipeline(folder / "base", rig=rig, seed=seed).save_pretrained(folder / "model")
    inpainting = tiny_inpainting_base(folder / "inpainting")
    return {"model": folder / "model", "base": folder / "base", "inpainting": inpainting}


def depth_parts(folder: Path) -> dict[str, Path]:
    """Write what the methods for frames need: `model` of a depth base, the `inpainting` base and a `controlnet`."""
    make_depth_pipeline(folder / "depth").save_pretrained(folder / "model")
    inpainting, controlnet = tiny_inpainting_base(folder / "inpainting"), tiny_controlnet(folder / "control")
    return {"model": folder / "model", "inpainting": inpainting, "controlnet": controlnet}
