"""Measure what looking across views costs: multi-view over plain UNet, time and peak memory, beside the plain twin.

    export PYTHONPATH=.
    python benchmarks/multiview_forward.py --size 35M
    python benchmarks/multiview_forward.py --size sd2 --repeats 1 --warmup 0 --checkpointing --twin_latent 0

One run prints everything, with random weights: plain and multi-view take turns on the same 8 views (256x256, so 32x32
latents), each number is a median. A training step is forward and backward: for the multi-view model to the adapter's
weights, for the plain UNet to its input, so that both go back through a frozen network. On a CPU the time is
the process's own CPU time (with one thread: the time it would take alone), and memory the peak of the
resident set above what it was before; on a GPU they are CUDA's. The twin (explicit loops, `tests.plain_attention`) is
measured on smaller latents, beside the fast attention on those.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.geometry.correspondence import tap_geometry
from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.multiview_unet import MultiViewUNet

STRIDE = 8
SIZES = {
    "tiny": {"block_out_channels": (32, 64), "cross_attention_dim": 32, "norm_num_groups": 8},
    "35M": {"block_out_channels": (96, 192, 224, 224), "cross_attention_dim": 256},
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}


class Twin(nn.Module):
    """The plain twin of an attention block, in its place."""

    def __init__(self, block: nn.Module, K: Tensor, R: Tensor, latent: int, level: int) -> None:
        super().__init__()
        self.block = block
        self.geometry = tap_geometry(K, R, latent * STRIDE, latent * STRIDE, STRIDE * 2**level)

    def forward(self, hidden_states: Tensor, *_: object) -> Tensor:
        from tests.plain_attention import reference_attention  # the repository's root is on PYTHONPATH

        return reference_attention(self.block, hidden_states, self.geometry)


def build(size: str, device: str, dtype: torch.dtype) -> MultiViewUNet:
    """A multi-view UNet of Stable Diffusion's shape with random weights, in the base and in the adapter."""
    config = SIZES[size]
    levels = len(config["block_out_channels"])
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        **config,
    )
    model = MultiViewUNet.from_unet(unet)
    for weight in model.trainable_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02)
    return model.to(device, dtype)


def rig(latent: int, views: int) -> tuple[Tensor, Tensor]:
    """Cameras of a ring whose neighbours overlap by half."""
    side = latent * STRIDE
    return RingRig(num_views=views, fov_deg=720.0 / views if views > 4 else 90.0, height=side, width=side).cameras()


def geometry_of(model: MultiViewUNet, latent: int, views: int) -> MultiViewGeometry:
    """The geometry of such a ring, for every level."""
    side = latent * STRIDE
    return model.adapter.geometry(MultiViewBatch.from_cameras(*rig(latent, views), side, side), STRIDE)


def inputs(model: MultiViewUNet, latent: int, views: int, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Noisy latents, a timestep and text embeddings of one sample."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, views, 4, latent, latent, generator=generator)
    text = torch.randn(1, views, 77, model.config.cross_attention_dim, generator=generator)
    return sample.to(device, dtype), torch.tensor([500], device=device), text.to(device, dtype)


def held_memory(device: str, peak: bool = False) -> float:
    """Return the MiB held now, or at the peak since `measure` began."""
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(run: Callable[[], object], device: str, held: float) -> tuple[float, float]:
    """Return seconds and the peak in MiB beyond `held`."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start, held_memory(device, peak=True) - held
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, Linux only
    start = time.process_time()
    run()
    return time.process_time() - start, held_memory(device, peak=True) - held


def compare(
    name: str, runs: dict[str, Callable[[], object]], repeats: int, device: str, held: float, warmup: int = 1
) -> None:
    """Run all in turns, first to warm up, and print medians and ratios over the first."""
    results: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
    for turn in range(warmup + repeats):
        for label, run in runs.items():
            result = measure(run, device, held)
            if turn >= warmup:
                results[label].append(result)
    first = None
    for label, values in results.items():
        seconds, mebibytes = (statistics.median(column) for column in zip(*values, strict=True))
        first = first or (seconds, mebibytes)
        ratios = f"{seconds / first[0]:5.2f}x time  {mebibytes / max(first[1], 1.0):5.2f}x memory"
        print(f"{name:9} {label:12} {seconds:9.3f} s {mebibytes:9.0f} MiB  {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="35M")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--latent", type=int, default=32, help="latent rows and columns; the image has 8 times as many")
    parser.add_argument("--twin_latent", type=int, default=8, help="latents for the plain twin; 0: leave it out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="turns that are not counted")
    parser.add_argument("--no_train", action="store_true", help="leave the training step out")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, in both models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    device, dtype = args.device, getattr(torch, args.dtype)

    model = build(args.size, device, dtype)
    model.enable_gradient_checkpointing(args.checkpointing)
    geometry = geometry_of(model, args.latent, args.views)
    sample, timestep, text = inputs(model, args.latent, args.views, device, dtype)
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.unet, model.adapter)]
    print(f"{args.size}: UNet {millions[0]:.1f}M, attention across views {millions[1]:.1f}M parameters")
    print(f"{args.views} views of {args.latent}x{args.latent} latents, {dtype}, {device}", end=", ")
    print(f"{torch.get_num_threads()} threads")

    @torch.no_grad()
    def forward(where: MultiViewGeometry | None) -> Tensor:
        return model(sample, timestep, text, where)

    def train_plain() -> None:
        model(sample.clone().requires_grad_(), timestep, text, None).float().square().mean().backward()

    def train_multiview() -> None:
        model(sample, timestep, text, geometry).float().square().mean().backward()
        model.adapter.zero_grad()

    held = held_memory(device)
    turns = (args.repeats, device, held, args.warmup)
    compare("forward", {"plain": lambda: forward(None), "multi-view": lambda: forward(geometry)}, *turns)
    if not args.no_train:
        compare("training", {"plain": train_plain, "multi-view": train_multiview}, *turns)
    if args.twin_latent:
        compare_with_twin(model, args.twin_latent, args.views, device, dtype)


@torch.no_grad()
def compare_with_twin(model: MultiViewUNet, latent: int, views: int, device: str, dtype: torch.dtype) -> None:
    """Time the whole model with the fast attention and with the twin's loops, and print how far they differ."""
    K, R = rig(latent, views)
    geometry = geometry_of(model, latent, views)
    sample, timestep, text = inputs(model, latent, views, device, dtype)
    slow = MultiViewUNet(model.unet, copy.deepcopy(model.adapter))
    last = model.num_levels - 1
    slow.adapter.mid_block = Twin(slow.adapter.mid_block, K, R, latent, last)
    for level in range(model.num_levels):
        slow.adapter.down_blocks[level] = Twin(slow.adapter.down_blocks[level], K, R, latent, level)
        slow.adapter.up_blocks[last - level] = Twin(slow.adapter.up_blocks[last - level], K, R, latent, level)
    outputs = {}

    def run(label: str, which: MultiViewUNet) -> None:
        outputs[label] = which(sample, timestep, text, geometry)

    print(f"the twin, on {latent}x{latent} latents:")
    compare(
        "forward",
        {"multi-view": lambda: run("fast", model), "plain twin": lambda: run("twin", slow)},
        1,
        device,
        held_memory(device),
    )
    error = (outputs["fast"] - outputs["twin"]).abs().max() / outputs["twin"].abs().max()
    print(f"largest difference over largest value: {error:.1e}")


if __name__ == "__main__":
    main()
