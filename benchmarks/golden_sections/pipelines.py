"""The pipelines' public calls: CAA, the plain base and both controls, for one sample and for two."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .run import Run, read_frames, uint8_picture

PROMPTS = ["a red sofa and a blue lamp, green walls", "a yellow table, white walls"]
VARIANTS = {
    "CAA": {},
    "base": {"caa": False},
    "attention off": {"attention_enabled": False},
    "foreign neighbours": {"neighbour_batch": [1, 0]},
}


def panorama(run: Run) -> None:
    """Generate panoramas from text."""
    pipeline = run.pipeline("panorama")
    keep_variants(run, pipeline, PROMPTS)
    per_view = [[f"{prompt}, view {view}" for view in range(8)] for prompt in PROMPTS]
    run.keep_call("prompt per view", pipeline, per_view, sample_ids=["one", "two"])
    run.keep_call("eta", pipeline, PROMPTS, eta=0.7, negative_prompt="blurry", guidance_scale=3.0)
    run.keep_call("no guidance", pipeline, PROMPTS[:1], guidance_scale=1.0, panorama_height=48)


def outpaint(run: Run) -> None:
    """Continue given views, and pictures at any angle."""
    pipeline = run.pipeline("outpaint")
    views = torch.stack([torch.from_numpy(uint8_picture(64, 64, view)) for view in range(16)]).permute(0, 3, 1, 2)
    known = torch.zeros(2, 8, 1, 64, 64)
    known[0, 0], known[1, 0], known[1, 3, :, 16:40, 8:] = 1, 1, 1
    keep_variants(run, pipeline, PROMPTS, images=(views / 127.5 - 1).view(2, 8, 3, 64, 64), known=known)
    photos = [Image.fromarray(uint8_picture(48, 64, seed)) for seed in (100, 101)]
    angles = {"fov_deg": [65.0, 80.0], "yaw_deg": [20.0, -100.0], "pitch_deg": 5.0}
    run.keep_call("pictures", pipeline, PROMPTS, image=photos, **angles)
    run.keep_call("not put back", pipeline, PROMPTS[:1], image=photos[0], fov_deg=65.0, paste_back=False)


def depth(run: Run) -> None:
    """Generate frames of two toy walks, with padding and with given frames, too."""
    pipeline = run.pipeline("depth")
    prompts, images, frames = two_walks(run)
    keep_variants(run, pipeline, prompts, **frames)
    valid = torch.tensor([[True] * 5, [True] * 4 + [False]])
    run.keep_call("padding", pipeline, prompts, view_valid=valid, **frames)
    known = torch.zeros(2, 5, 1, 48, 64)
    known[0, [0, 4]] = 1  # the second sample is generated as a whole, and takes nothing from image conditions
    given = {"images": images, "known": known, "frame_ids": [range(0, 20, 4)] * 2}
    for variant in ("CAA", "base"):
        run.keep_call(f"given frames, {variant}", pipeline, prompts, **given, **frames, **VARIANTS[variant])


def two_walks(run: Run) -> tuple[list[list[str]], Tensor, dict[str, Tensor]]:
    """Return prompts, images and cameras with depths of five frames of each held-out toy walk."""
    walks = [read_frames(scene, range(0, 20, 4)) for scene in run.walks("test")]
    frames = {name: torch.stack([walk[name] for walk in walks]) for name in ("depths", "K", "R", "t")}
    return [walk["prompts"] for walk in walks], torch.stack([walk["images"] for walk in walks]), frames


def keep_variants(run: Run, pipeline: Any, prompts: list, **inputs: Tensor) -> None:
    """Keep each variant of a call for both samples, and for the first alone where it has neighbours of its own."""
    for variant, settings in VARIANTS.items():
        run.keep_call(f"{variant}, batch 2", pipeline, prompts, **inputs, **settings)
        if variant != "foreign neighbours":
            first = {name: value[:1] for name, value in inputs.items()}
            run.keep_call(f"{variant}, batch 1", pipeline, prompts[:1], **first, **settings)
