"""Measure what lower precision costs correspondence-aware attention, at the widths of Stable Diffusion 2.

    PYTHONPATH=. python benchmarks/precision.py

One block of each width (320, 640 and 1280 channels) with random weights looks across 4 views of 64x64 pixels. The base
adds a block's update to its own features: errors are those of the update, output minus input, and of the gradients
through it. Each is the norm of the difference to float32 over the norm of float32's. `weights` is the largest error
among the block's parameters. The features are in the lower precision, as those of the base are then. `true` holds the
block's weights in it, too (`--dtype`, `.to(dtype)`); `mixed` holds them in float32 and runs under autocast
(`trainer.precision: bf16-mixed`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.attention import CorrespondenceAwareAttention, Level

WIDTHS = {320: 8, 640: 16, 1280: 32}
"""Channels of each level of Stable Diffusion 2, and its pixels per cell; the last two levels have 1280."""
RIG = RingRig(num_views=4, fov_deg=120.0, height=64, width=64)


@dataclass(frozen=True)
class Mode:
    """A way to compute.

    Attributes:
        dtype: Lower precision.
        mixed: Hold weights in float32 and use autocast; False: hold weights in `dtype`.
    """

    dtype: torch.dtype
    mixed: bool

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {'mixed' if self.mixed else 'true'}"


ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Largest relative error of one rounding to the nearest number."""
BOUNDS = {"update": 3.5, "input": 5.0, "weights": 6.0}
"""Errors that lower precision may have, in roundings. Measured on a CPU with AVX2: at most 2.3, 3.0 and 3.3."""
MODES = tuple(Mode(dtype, mixed) for dtype in (torch.bfloat16, torch.float16) for mixed in (False, True))


def trained_like(channels: int) -> CorrespondenceAwareAttention:
    """Make a block with random weights: logits have a standard deviation of about 2, updates are as large as inputs."""
    torch.manual_seed(0)
    block = CorrespondenceAwareAttention(channels)
    for name, weight in block.named_parameters():
        if weight.ndim > 1:
            gain = 1.5 if name in ("to_q.weight", "to_k.weight") else 1.0
            nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)
        else:
            nn.init.normal_(weight, mean=float("norm" in name and name.endswith("weight")), std=0.1)
    return block


def exact(*shape: int, seed: int) -> Tensor:
    """Draw normal numbers that bfloat16 and float16 both hold exactly."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def results(block: CorrespondenceAwareAttention, mode: Mode | None, device: str, backward: bool) -> Iterator[Tensor]:
    """Yield the update, then its gradients: that of the input, and those of all parameters.

    Args:
        block: Block in float32, which is not changed.
        mode: Precision; None: float32.
        device: Device to compute on.
        backward: Compute gradients.
    """
    dtype, mixed = (torch.float32, False) if mode is None else (mode.dtype, mode.mixed)
    block = copy.deepcopy(block).to(device, torch.float32 if mixed else dtype)
    stride = WIDTHS[block.channels]
    level = Level(RIG.height // stride, RIG.width // stride, stride)
    batch = MultiViewBatch.from_cameras(*RIG.cameras(), RIG.height, RIG.width)
    taps = block.build_taps(batch, [level])[0].to(device)
    shape = (1, RIG.num_views, block.channels, level.height, level.width)
    hidden_states = exact(*shape, seed=1).to(device, dtype).requires_grad_(backward)
    direction = exact(*shape, seed=2).to(device)
    with torch.autocast(device, dtype if mixed else None, enabled=mixed):
        output = block(hidden_states, taps)
    yield output.detach().double() - hidden_states.detach().double()
    if backward:
        output.backward(direction.to(dtype))
        yield hidden_states.grad.double() - direction
        yield from (weight.grad.double() for weight in block.parameters())


def errors(channels: int, mode: Mode, device: str = "cpu", backward: bool = True) -> dict[str, float]:
    """Return the relative errors of `update` and, with `backward`, of the gradients of `input` and `weights`.

    The reference is float32 on the CPU.

    Args:
        channels: Width, a key of `WIDTHS`.
        mode: Precision.
        device: Device that computes in it.
        backward: Compute gradients.
    """
    block = trained_like(channels)
    pairs = zip(results(block, mode, device, backward), results(block, None, "cpu", backward), strict=True)
    relative = [float((low.cpu() - full).norm() / full.norm()) for low, full in pairs]
    found = {"update": relative[0]}
    return found | {"input": relative[1], "weights": max(relative[2:])} if backward else found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    print(f"{device}, torch {torch.__version__}")
    print("| channels | precision | update | gradient of the input | gradients of weights |\n|---|---|---|---|---|")
    for channels in WIDTHS:
        for mode in MODES:
            found = errors(channels, mode, device)
            numbers = " | ".join(f"{100 * found[name]:.2f} %" for name in ("update", "input", "weights"))
            print(f"| {channels} | {mode} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
