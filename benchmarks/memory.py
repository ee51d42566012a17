"""Measure memory and time against the settings that save memory, on modules of Stable Diffusion 2's size.

    python benchmarks/memory.py
    python benchmarks/memory.py --only forward --latent 64 --device cuda

Weights are random: UNet (866M), attention across views (148M), autoencoder (84M) and text encoder (340M) have the sizes
of the paper's model on Stable Diffusion 2; "generate" is a whole pipeline, two steps with guidance. Every row is a
process of its own, one after the other, so that no row inherits what another one left allocated. On a CPU "weights" is
what building the modules adds to the resident set and "peak" the most that a run adds to that; on a GPU both are
CUDA's, and the rows with CPU offload, which needs one, are measured too. Seconds are the process's own CPU time (on a
GPU: wall time). A row that fails, for lack of memory or another reason, says so, and the exit status is then 1.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from measuring import held_memory, measure
from networks import SD2, geometry_of, inputs
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from mvdiff.geometry.cameras import RingRig
from mvdiff.models.fresh import word_tokenizer
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

STAGES = ("forward", "training", "decode", "generate")


@dataclass(frozen=True)
class Row:
    """One set of settings."""

    stage: str
    dtype: str = "float32"
    views_per_chunk: int | None = None
    gradient_checkpointing: bool = False
    vae_slicing: bool = False
    cpu_offload: str | None = None

    @property
    def label(self) -> str:
        """The settings in words."""
        named = {name: value for name, value in asdict(self).items() if value and name not in ("stage", "dtype")}
        parts = [name if value is True else f"{name} {value}" for name, value in named.items()]
        return ", ".join([self.dtype, *parts])


ROWS = (
    Row("forward"),
    Row("forward", views_per_chunk=4),
    Row("forward", views_per_chunk=1),
    Row("training"),
    Row("training", views_per_chunk=1),
    Row("training", gradient_checkpointing=True),
    Row("training", gradient_checkpointing=True, views_per_chunk=1),
    Row("decode"),
    Row("decode", vae_slicing=True),
    Row("generate"),
    Row("generate", views_per_chunk=1, vae_slicing=True),
    Row("forward", "bfloat16"),
    Row("forward", "bfloat16", views_per_chunk=1),
    Row("generate", "bfloat16"),
    Row("generate", "bfloat16", cpu_offload="model"),
    Row("generate", "bfloat16", cpu_offload="sequential"),
    Row("generate", "bfloat16", views_per_chunk=1, vae_slicing=True, cpu_offload="sequential"),
)


def built(make: type[nn.Module] | object, device: str, dtype: torch.dtype) -> nn.Module:
    """Make a module with small random weights, straight in its precision."""
    with torch.device("meta"):
        module = make()
    module = module.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.02) if weight.ndim > 1 else weight.zero_()
    return module


def sd2_unet() -> MultiViewUNet:
    """The multi-view UNet of Stable Diffusion 2."""
    levels = len(SD2["block_out_channels"])
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        **SD2,
    )
    return MultiViewUNet.from_unet(unet)


def sd2_vae() -> AutoencoderKL:
    """Its autoencoder."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )


def sd2_text_encoder() -> CLIPTextModel:
    """Its text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
        )
    )


def sd2_pipeline(row: Row, views: int, latent: int, device: str, dtype: torch.dtype) -> MVDiffusionPanoramaPipeline:
    """The panorama pipeline of these parts; under CPU offload they are made, and wait, on the CPU."""
    where = "cpu" if row.cpu_offload else device
    model = built(sd2_unet, where, dtype)
    vae, text_encoder = built(sd2_vae, where, dtype), built(sd2_text_encoder, where, dtype)
    pipeline = MVDiffusionPanoramaPipeline(
        vae,
        text_encoder,
        word_tokenizer(["a", "room"], 77),
        model.unet,
        model.adapter,
        DDIMScheduler(),
        RingRig(num_views=views, height=8 * latent, width=8 * latent),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.set_views_per_chunk(row.views_per_chunk)
    if row.vae_slicing:
        pipeline.enable_vae_slicing()
    if row.cpu_offload == "model":
        pipeline.enable_model_cpu_offload()
    elif row.cpu_offload == "sequential":
        pipeline.enable_sequential_cpu_offload()
    return pipeline


def run_row(row: Row, views: int, latent: int, device: str) -> dict[str, float]:
    """Measure one row in this process."""
    dtype = getattr(torch, row.dtype)
    torch.manual_seed(0)
    before = held_memory(device)
    if row.stage == "decode":
        vae = built(sd2_vae, device, dtype).eval().requires_grad_(False)
        vae.use_slicing = row.vae_slicing
        latents = torch.randn(views, 4, latent, latent).to(device, dtype)

        def run() -> None:
            with torch.no_grad():
                vae.decode(latents)
    elif row.stage == "generate":
        pipeline = sd2_pipeline(row, views, latent, device, dtype)

        def run() -> None:
            pipeline("a room", num_inference_steps=2, seed=0, output_type="uint8")
    else:
        model = built(sd2_unet, device, dtype)
        model.unet.requires_grad_(False)
        model.set_views_per_chunk(row.views_per_chunk)
        model.enable_gradient_checkpointing(row.gradient_checkpointing)
        arguments = (*inputs("sd2", latent, views, device, dtype), geometry_of(model, latent, views))

        def run() -> None:
            with torch.set_grad_enabled(row.stage == "training"):
                output = model(*arguments)
            if row.stage == "training":
                output.float().square().mean().backward()

    held = held_memory(device)
    seconds, peak = measure(run, device, held)
    return {"seconds": seconds, "weights": held - before, "peak": peak}


def side(row: Row, latent: int) -> int:
    """Latent rows of a row's views: training takes smaller ones, to fit a small machine without any switch."""
    return latent // 2 if row.stage == "training" else latent


def main() -> int:
    """Print a table of all rows; return 1 if one is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=STAGES, action="append", help="these rows only (default: all)")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--latent", type=int, default=32, help="latent rows and columns; training takes half of them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row is not None:
        row = ROWS[args.row]
        print(json.dumps(run_row(row, args.views, side(row, args.latent), args.device)))
        return 0
    print(f"{args.views} views, {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if args.device == "cpu":
        print("The rows with CPU offload are left out: they need --device cuda.")
    print("| stage | settings | peak beyond the weights, MiB | weights, MiB | s |\n|---|---|---|---|---|", flush=True)
    missing = 0
    for index, row in enumerate(ROWS):
        if (args.only and row.stage not in args.only) or (row.cpu_offload and args.device == "cpu"):
            continue
        latent = side(row, args.latent)
        done = subprocess.run([sys.executable, *sys.argv, "--row", str(index)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            missing += 1
            numbers = f"failed with status {done.returncode} | | "
        else:
            found = json.loads(done.stdout.splitlines()[-1])
            numbers = f"{found['peak']:.0f} | {found['weights']:.0f} | {found['seconds']:.1f}"
        print(f"| {row.stage}, {8 * latent}x{8 * latent} | {row.label} | {numbers} |", flush=True)
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
