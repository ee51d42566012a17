"""Tiny bases and files of each kind that upstream published, shared by the tests of their conversion."""

import argparse

import torch
from diffusers import UNet2DConditionModel

from mvdiff.models.backbone import load_backbone
from tests.interop.files import attention_weights, base_weights, write_file
from tests.tiny import tiny_base

WIDTHS = (32, 32)


def make_base(folder, in_channels=4, seed=0):
    """A tiny base whose two levels are equally wide, as the last two of Stable Diffusion 2 are."""
    backbone = load_backbone(tiny_base(folder / "plain"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = dict(backbone.unet.config) | {"block_out_channels": WIDTHS, "in_channels": in_channels}
        backbone.unet = UNet2DConditionModel.from_config(config)
    backbone.save_pretrained(folder / "base")
    return folder / "base"


def write_places(root):
    """Write bases for panoramas, depth and outpainting, and a file of each kind that holds everything."""
    found = {}
    for name, channels in (("panorama", 4), ("depth", 5), ("outpaint", 9)):
        base = found[f"{name}-base"] = make_base(root / name, channels)
        attention = attention_weights(WIDTHS, depth=name == "depth")
        weights = base_weights(load_backbone(base)) | attention
        foreign = {"hyper_parameters": argparse.Namespace(lr=1e-4)}
        found[name] = write_file(root / f"{name}.ckpt", weights, **foreign)
    return found
