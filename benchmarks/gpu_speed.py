"""Measure seconds per panorama and per training step at Stable Diffusion 2's, SDXL's and SANA's sizes.

    export PYTHONPATH=.
    python benchmarks/gpu_speed.py --device cuda
    python benchmarks/gpu_speed.py --device cpu --size tiny

Weights are random; networks, attention and autoencoders have their published sizes, and text encoders their width, but
few layers (text is encoded once per panorama). 8 views of 512x512 pixels (SDXL 768x768), bfloat16. "Ours" is the model
with attention across views, "plain" its base on the same views. A panorama is one call with guidance and decoding: 50
and 25 steps of DDIM (SANA: FlowMatchEuler), and 25 with a cache of interval 3 (SANA: TaylorSeer). A training step is
forward, backward and, for ours, AdamW on the attention in float32 under autocast, from latents, without checkpointing.
A row for which the device has no memory says so, and the exit status is then 1.
The plain twin (explicit loops, `tests.plain_attention`) would take minutes at these sizes: it runs once on views of
64x64 pixels, beside ours on those.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.hooks import TaylorSeerCacheConfig
from measuring import measure
from multiview_forward import compare_with_twin
from networks import SHAPES, Shape, base_of, build, filled, geometry_of, inputs, rig
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mvdiff.models.bases.sana import SanaBase
from mvdiff.models.bases.sdxl import StableDiffusionXLBase
from mvdiff.models.bases.text_encoders import TextEncoders, Tokenizers
from mvdiff.models.fresh import word_tokenizer
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

WORDS = ["a", "room"]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
TAYLOR = ["transformer_blocks\\.[0-9]+"]


class Call(NamedTuple):
    """One row: its name, what to run first, and what to measure."""

    name: str
    warm_up: Callable[[], object]
    run: Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """What to measure at a size.

    Attributes:
        pixels: Height and width of the views of each shape.
        views: Number of views.
        steps: Denoising steps; half of them, too.
        twin: Shape that is compared with the plain twin.
    """

    pixels: dict[str, int]
    views: int
    steps: int
    twin: str


PLANS = {
    "full": Plan({"sd2": 512, "sdxl": 768, "sana": 512}, 8, 50, "sd2"),
    "tiny": Plan({"tiny": 64, "tiny-sdxl": 64, "tiny-sana": 64}, 4, 4, "tiny"),
}


def text_parts(shape: Shape, device: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Make text encoders of two layers and of the shape's width, and their tokenizers."""
    length, width = shape.text
    tokenizer = word_tokenizer(WORDS, length)

    def encoder(kind: type[nn.Module], width: int, projection: int = 8) -> nn.Module:
        heads = {"num_attention_heads": max(1, width // 64), "intermediate_size": width, "num_hidden_layers": 2}
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": length, "projection_dim": projection}
        return kind(CLIPTextConfig(hidden_size=width, **heads, **sizes, **ends)).to(device, dtype).eval()

    if shape.family is not StableDiffusionXLBase:
        return encoder(CLIPTextModel, width), tokenizer
    numbers = 6 * shape.network["addition_time_embed_dim"]
    pooled = shape.network["projection_class_embeddings_input_dim"] - numbers
    first = 768 if width == 2048 else width // 2
    encoders = {"text_encoder": encoder(CLIPTextModel, first)}
    encoders["text_encoder_2"] = encoder(CLIPTextModelWithProjection, width - first, pooled)
    return TextEncoders(encoders), Tokenizers({"tokenizer": tokenizer, "tokenizer_2": tokenizer})


def pipeline_of(size: str, pixels: int, views: int, device: str, dtype: torch.dtype) -> MVDiffusionPanoramaPipeline:
    """Make the panorama pipeline of a shape with random weights on a device."""
    shape = SHAPES[size]
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    text_encoder, tokenizer = text_parts(shape, device, dtype)
    scheduler = flow if shape.family is SanaBase else DDIMScheduler(**NOISE)
    base = base_of(shape, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)
    with torch.device("meta"):
        adapter = base.new_adapter(every=shape.every)
    torch.manual_seed(0)
    for part in (base.unet, base.vae, adapter):
        filled(part, device, dtype)
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(base, adapter, rig=rig(pixels, views))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def panoramas(size: str, pixels: int, views: int, steps: int, device: str, dtype: torch.dtype) -> Iterator[Call]:
    """Yield each kind of call of a shape's pipeline."""
    pipeline = pipeline_of(size, pixels, views, device, dtype)

    def call(steps: int, caa: bool = True) -> Callable[[], object]:
        settings = {"num_inference_steps": steps, "guidance_scale": 5.0, "seed": 0, "output_type": "uint8"}
        return lambda: pipeline("a room", caa=caa, **settings)

    yield Call(f"{steps} steps, plain", call(2, caa=False), call(steps, caa=False))
    yield Call(f"{steps} steps, ours", call(2), call(steps))
    yield Call(f"{steps // 2} steps, ours", call(2), call(steps // 2))
    transformer = pipeline.adapter.config.sites is not None
    if transformer:
        pipeline.enable_cache(TaylorSeerCacheConfig(cache_interval=3, cache_identifiers=TAYLOR))
    else:
        pipeline.enable_deep_cache(interval=3)
    yield Call(f"{steps // 2} steps with cache 3, ours", call(2), call(steps // 2))


def training_steps(size: str, pixels: int, views: int, device: str) -> Iterator[Call]:
    """Yield each kind of training step; the base is held in bfloat16."""
    shape = SHAPES[size]
    model = build(size, device, torch.bfloat16)
    nn.Module.to(model.adapter, torch.float32)
    latent = pixels // shape.stride
    geometry = geometry_of(model, latent, views, shape.stride)
    sample, timestep, text = inputs(size, latent, views, device, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-6)

    def plain() -> None:
        with torch.autocast(device, torch.bfloat16):
            output = model(sample.clone().requires_grad_(), timestep, text, None)
        output.float().square().mean().backward()

    def ours() -> None:
        with torch.autocast(device, torch.bfloat16):
            output = model(sample, timestep, text, geometry)
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for name, step in (("plain", plain), ("ours", ours)):
        yield Call(f"training step, {name}", step, step)


def main() -> int:
    """Print a table of all sizes; return 1 if a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=list(PLANS), default="full")
    args = parser.parse_args()
    device, plan, began = args.device, PLANS[args.size], time.perf_counter()
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{name}, torch {torch.__version__}, {plan.views} views, bfloat16")
    print("| shape | pixels | | s | peak GB, weights included |\n|---|---|---|---|---|")
    missing = 0
    for size, pixels in plan.pixels.items():
        missing += report(size, pixels, panoramas(size, pixels, plan.views, plan.steps, device, torch.bfloat16), device)
        missing += report(size, pixels, training_steps(size, pixels, plan.views, device), device)
    torch.backends.cudnn.allow_tf32 = False
    model = build(plan.twin, device, torch.float32)
    compare_with_twin(plan.twin, model, 8, plan.views, device, torch.float32)
    print(
        f"{time.perf_counter() - began:.0f} s in all" + (f"; {missing} rows out of memory" if missing else ""),
        flush=True,
    )
    return int(missing > 0)


def report(size: str, pixels: int, calls: Iterator[Call], device: str) -> int:
    """Print a row per call; return the number of rows for which the device has no memory."""
    missing = 0
    while True:
        name = "loading"
        try:
            name, warm_up, run = next(calls)
            warm_up()
            seconds, mebibytes = measure(run, device, held=0)
            cells = f"{name} | {seconds:.3f} | {mebibytes / 1024:.2f}"
        except StopIteration:
            return missing
        except torch.OutOfMemoryError as error:
            missing += 1
            cells = f"{name}: out of memory: {str(error).splitlines()[0]} | |"
        print(f"| {size} | {pixels} | {cells} |", flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
