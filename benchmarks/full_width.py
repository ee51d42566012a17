"""Convert files as wide as the published checkpoints, generate with them, and convert them back.

    python benchmarks/full_width.py NAMES.json --out DIR --task panorama depth

NAMES.json gives the names, shapes and dtypes of the published files: {"panorama": {"full_trained": {NAME: [SHAPE,
DTYPE]}}, "depth": ...}. Weights are random; the base has Stable Diffusion 2's UNet and the packaged toy models' other
parts. Every step is the command that a user types. Prints parameters, seconds and whether all bits came back.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections import OrderedDict
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from networks import SD2
from transformers import CLIPTextConfig, CLIPTextModel

from mvdiff.cli.main import main as mvdiff
from mvdiff.models.backbone import Backbone, load_backbone

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64}
EXTRA_CHANNELS = {"panorama": 0, "depth": 1}
TOY_BASE = {"panorama": "mvdiff://toy-base", "depth": "mvdiff://toy-depth-base"}
SIZE = {"panorama": (64, 64), "depth": (64, 128)}


def random_file(names: dict[str, tuple[list[int], str]], path: Path) -> dict[str, torch.Tensor]:
    """Write a Lightning checkpoint with random weights of the given names; return the weights."""
    torch.manual_seed(0)
    state = OrderedDict()
    for name, (shape, dtype) in names.items():
        value = torch.randn(shape) * 0.02
        if name.endswith("freq_bands"):
            value = (2.0 ** torch.linspace(0, 10, math.prod(shape))).reshape(shape)
        elif name.split(".")[-2].startswith("norm") and name.endswith("weight"):
            value = 1 + value
        state[name] = value.to(DTYPES[dtype])
    torch.save({"state_dict": state, "epoch": 9, "global_step": 100}, path)
    return state


def wide_base(task: str, folder: Path) -> None:
    """Write a base with the UNet of Stable Diffusion 2 and a text encoder of its width."""
    toy = load_backbone(TOY_BASE[task])
    levels = len(SD2["block_out_channels"])
    unet = {
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        "in_channels": 4 + EXTRA_CHANNELS[task],
        **SD2,
    }
    text = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 1024}
    text_encoder = CLIPTextModel(CLIPTextConfig(**{**toy.text_encoder.config.to_dict(), **text}))
    Backbone(toy.vae, text_encoder, toy.tokenizer, UNet2DConditionModel(**unet), toy.scheduler).save_pretrained(folder)


def run(*arguments: object) -> float:
    """Run a command of mvdiff in this process; return its seconds."""
    start = time.time()
    words = [str(argument) for argument in arguments]
    print("$ mvdiff", *words, flush=True)
    if status := mvdiff(words):
        sys.exit(f"mvdiff {' '.join(words)} ended with {status}")
    return time.time() - start


def round_trip(task: str, names: dict[str, tuple[list[int], str]], out: Path) -> None:
    """Make, convert, generate and convert back one file; print what came out."""
    folder = out / task
    folder.mkdir(parents=True, exist_ok=True)
    state = random_file(names, folder / "published.ckpt")
    count = sum(value.numel() for name, value in state.items() if not name.endswith("freq_bands"))
    wide_base(task, folder / "base")
    height, width = SIZE[task]
    seconds = {
        "convert": run(
            *("convert", "upstream", folder / "published.ckpt", "--task", task, "--base", folder / "base"),
            *("--out", folder / "model", "--height", height, "--width", width, "--overwrite"),
        )
    }
    if task == "panorama":
        request = ("panorama", "--prompt", "a kitchen")
    else:
        run("data", "toyworld", folder / "toy", "--rooms", 2, "--test_rooms", 1)
        scene = next((folder / "toy" / "scannet" / "test").iterdir())
        request = ("depth", "--scene", scene, "--num_views", 3, "--max_frames", 12)
    seconds["generate"] = run(
        *("generate", *request, "--model", folder / "model", "--num_inference_steps", 2),
        *("--out", folder / "samples", "--overwrite"),
    )
    back = folder / "back.ckpt"
    seconds["convert back"] = run("convert", "to-upstream", folder / "model", "--out", back)
    back = torch.load(back, weights_only=True)["state_dict"]
    assert set(back) == set(state), set(back) ^ set(state)
    equal = sum(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in state.items())
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"{task}: {count:,} parameters, {equal} of {len(state)} tensors bit for bit; {spent}", flush=True)
    shutil.rmtree(folder)
    if equal < len(state):
        sys.exit(f"{task}: {len(state) - equal} tensors came back different")


def main() -> None:
    """Run every task asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for about 6 GB of files, emptied again")
    parser.add_argument("--task", nargs="+", choices=list(SIZE), default=list(SIZE))
    options = parser.parse_args()
    tables = json.loads(options.names.read_text(encoding="utf-8"))
    for task in options.task:
        round_trip(task, tables[task]["full_trained"], options.out)


if __name__ == "__main__":
    main()
