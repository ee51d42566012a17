"""Measure what looking across views costs: multi-view over plain network, time and peak memory, beside the floor.

    export PYTHONPATH=.
    python benchmarks/multiview_forward.py --size 35M
    python benchmarks/multiview_forward.py --size sd2 --repeats 1 --warmup 0 --checkpointing --twin_latent 0
    python benchmarks/multiview_forward.py --size sdxl --repeats 1 --warmup 0  # 5 GB; sana: 3 GB

One run prints everything, with random weights: plain and multi-view take turns on the same 8 views (256x256 pixels),
each number is a median. A training step is forward and backward: for the multi-view model to the adapter's weights, for
the plain network to its input, so that both go back through a frozen network (`benchmarks/measuring.py` says what time
and memory are). The floor is what attention across views needs at least (`benchmarks/floor.py`).

SDXL and SANA are measured at their true width with fewer layers, unless --whole is set. Totals of the whole network are
those numbers and, for each layer left out, those of an equal layer, run alone on its own input. "Kept" are the tensors
that a forward pass keeps for the backward pass; the multi-view model keeps none before its first attention. The plain
twin (explicit loops, `tests.plain_attention`) is measured on smaller latents, beside the fast attention on those; not
for SDXL and SANA.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from floor import blocks_and_taps, floor_of, own_multiply_adds, rates_of, total
from measuring import compare, held_memory, in_turns, kept_for_backward
from networks import SHAPES, Shape, build, geometry_of, inputs, network_of, rig
from torch import Tensor, nn

from mvdiff.geometry.correspondence import tap_geometry
from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.multiview_unet import MultiViewUNet

Medians = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Runs:
    """The calls to compare, and how often."""

    model: nn.Module
    arguments: tuple[Any, ...]
    geometry: MultiViewGeometry
    device: str
    repeats: int
    warmup: int

    def output(self, across_views: bool, needs_input: bool = False) -> Tensor:
        """Run the network, with or without attention across views; its input needs a gradient if `needs_input`."""
        sample, *rest = self.arguments
        sample = sample.clone().requires_grad_() if needs_input else sample
        return self.model(sample, *rest, self.geometry if across_views else None)

    def forward(self) -> dict[str, Callable[[], object]]:
        """Return forward passes of both networks."""
        return {label: self._without_gradients(label == "multi-view") for label in ("plain", "multi-view")}

    def training(self) -> dict[str, Callable[[], object]]:
        """Return training steps of both networks."""

        def step(across_views: bool) -> None:
            self.output(across_views, not across_views).float().square().mean().backward()
            self.model.adapter.zero_grad()

        return {"plain": lambda: step(False), "multi-view": lambda: step(True)}

    def compared(self, name: str, runs: dict[str, Callable[[], object]]) -> Medians:
        """Print and return medians."""
        return compare(name, runs, self.repeats, self.device, held_memory(self.device), self.warmup)

    def kept(self) -> dict[str, float]:
        """Return the MiB kept for the backward pass by both networks."""
        plain, across = (lambda: self.output(False, True)), (lambda: self.output(True))
        return {"plain": kept_for_backward(plain, self.model), "multi-view": kept_for_backward(across, self.model)}

    def _without_gradients(self, across_views: bool) -> Callable[[], object]:
        return torch.no_grad()(lambda: self.output(across_views))


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SHAPES), default="35M")
    parser.add_argument("--whole", action="store_true", help="all layers of SDXL (10 GB in float32) and SANA (8 GB)")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--latent", type=int, help="latent rows and columns (default: those of 256x256 pixels)")
    parser.add_argument("--twin_latent", type=int, default=8, help="latents for the plain twin; 0: leave it out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="turns that are not counted")
    parser.add_argument("--no_train", action="store_true", help="leave the training step out")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, in both models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    device, dtype, shape = args.device, getattr(torch, args.dtype), SHAPES[args.size]
    latent = args.latent or 256 // shape.stride

    model = build(args.size, device, dtype, whole=args.whole or not shape.small)
    model.enable_gradient_checkpointing(args.checkpointing)
    geometry = geometry_of(model, latent, args.views, shape.stride)
    runs = Runs(
        model, inputs(args.size, latent, args.views, device, dtype), geometry, device, args.repeats, args.warmup
    )
    print(f"{args.size}: {describe(shape, model)}")
    print(f"{args.views} views of {latent}x{latent} latents, {dtype}, {device}", end=", ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    left_out = None if args.whole or not shape.small else LeftOut(shape, runs)
    measured = {"forward": runs.compared("forward", runs.forward())}
    if not args.no_train:
        measured["training"] = runs.compared("training", runs.training())
        measured["kept"] = {label: (0.0, mebibytes) for label, mebibytes in runs.kept().items()}
        print_kept("kept", measured["kept"])
    if left_out is not None:
        measured = left_out.totals(measured)
    print_floor(runs, 0 if left_out is None else left_out.blocks, measured)
    if args.twin_latent and isinstance(model, MultiViewUNet) and not shape.small:
        compare_with_twin(args.size, model, args.twin_latent, args.views, device, dtype)


def describe(shape: Shape, model: nn.Module) -> str:
    """Return the numbers of parameters, of the whole network, too, where the measured one has fewer layers."""
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.unet, model.adapter)]
    with torch.device("meta"):
        network = network_of(shape)
    whole = [sum(p.numel() for p in network.parameters()) / 1e6, millions[1]]
    if shape.every:
        whole[1] *= len(network.transformer_blocks) // shape.every / len(model.adapter.blocks)
    text = "network {:.1f}M, attention across views {:.1f}M parameters".format(*millions)
    return text if abs(whole[0] - millions[0]) < 0.05 else text + "; whole: {:.1f}M and {:.1f}M".format(*whole)


class LeftOut:
    """Layers that the whole network has beyond the measured one; each is measured once, alone.

    Args:
        shape: The whole network.
        runs: Calls of the measured one.
    """

    def __init__(self, shape: Shape, runs: Runs) -> None:
        self.runs = runs
        with torch.device("meta"):
            places = len(network_of(shape).transformer_blocks) // shape.every if shape.every else None
        self.blocks = 0 if places is None else places - len(runs.model.adapter.blocks)
        parts = {name: runs.model.unet.get_submodule(name) for name in shape.more}
        counts = dict(shape.more)
        if self.blocks:
            parts["attention across views"] = runs.model.adapter.blocks[0]
            counts["attention across views"] = self.blocks
        self.parts = [(counts[name], part, self._input_of(part)) for name, part in parts.items()]

    def _input_of(self, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        handle = module.register_forward_pre_hook(lambda _, *given: inputs.append(given), with_kwargs=True)
        with torch.no_grad():
            self.runs.output(across_views=True)
        handle.remove()
        return inputs[0]

    def totals(self, measured: dict[str, Medians]) -> dict[str, Medians]:
        """Add what is left out to what was measured; print and return it."""
        whole = {name: dict(medians) for name, medians in measured.items()}
        for count, part, given in self.parts:
            labels = ("multi-view",) if part is self.runs.model.adapter.blocks[0] else ("plain", "multi-view")
            for name, result in self._measure(part, given, "training" in measured).items():
                for label in labels:
                    seconds, mebibytes = whole[name][label]
                    more = mebibytes + count * result[1] if name == "kept" else mebibytes
                    whole[name][label] = (seconds + count * result[0], more)
        for name in whole:
            if name == "kept":
                print_kept("kept, whole network, computed", whole[name])
                continue
            plain, across = (whole[name][label][0] for label in ("plain", "multi-view"))
            print(f"{name}, whole network, computed: {plain:.3f} and {across:.3f} s, {across / plain:.2f}x time")
        return whole

    def _measure(self, part: nn.Module, given: Any, training: bool) -> Medians:
        (first, *rest), named = given

        def forward() -> Tensor:
            output = part(first.detach().requires_grad_(torch.is_grad_enabled()), *rest, **named)
            return output[0] if isinstance(output, tuple) else output

        def step() -> None:
            forward().float().square().mean().backward()
            part.zero_grad()

        calls: dict[str, Callable[[], object]] = {"forward": torch.no_grad()(forward)}
        if training:
            calls["training"] = step
        runs = self.runs
        medians = in_turns(calls, runs.repeats, runs.device, held_memory(runs.device), runs.warmup)
        return medians | ({"kept": (0.0, kept_for_backward(forward, part))} if training else {})


def print_kept(name: str, kept: Medians) -> None:
    """Print the MiB kept for the backward pass."""
    plain, across = (kept[label][1] for label in ("plain", "multi-view"))
    print(
        f"{name}: {plain:.0f} and {across:.0f} MiB for the backward pass, {across / max(plain, 1.0):.2f}x", flush=True
    )


def print_floor(runs: Runs, further_blocks: int, measured: dict[str, Medians]) -> None:
    """Print what attention across views needs at least, beside what it took: multi-view less plain."""
    places = blocks_and_taps(runs.model, runs.geometry)
    places += places[:1] * further_blocks
    rates = rates_of(runs.device, next(runs.model.parameters()).dtype)
    print(
        f"floor of {len(places)} blocks, at {rates.multiply_adds / 1e9:.0f} G multiply-adds/s (matrix product) and "
        f"{rates.bytes / 1e9:.1f} GB/s (copy); own forward: {sum(own_multiply_adds(*p) for p in places) / 1e9:.1f} G"
    )
    for name in ("forward", "training"):
        if name in measured:
            floor = total(floor_of(*place, training=name == "training") for place in places)
            took = measured[name]["multi-view"][0] - measured[name]["plain"][0]
            print(
                f"{name:9} {floor.multiply_adds / 1e9:.1f} G multiply-adds, {floor.bytes / 1e6:.0f} MB: "
                f"{floor.seconds(rates):.3f} s; took {took:.3f} s",
                flush=True,
            )


class Twin(nn.Module):
    """The plain twin of an attention block, in its place."""

    def __init__(self, block: nn.Module, K: Tensor, R: Tensor, latent: int, level: int) -> None:
        super().__init__()
        self.block = block
        self.geometry = tap_geometry(K, R, latent * 8, latent * 8, 8 * 2**level)

    def forward(self, hidden_states: Tensor, *_: object) -> Tensor:
        """Return what the block returns."""
        from tests.plain_attention import reference_attention  # the repository's root is on PYTHONPATH

        return reference_attention(self.block, hidden_states, self.geometry)


@torch.no_grad()
def compare_with_twin(
    size: str, model: MultiViewUNet, latent: int, views: int, device: str, dtype: torch.dtype
) -> None:
    """Time the whole model with the fast attention and with the twin's loops, and print how far they differ."""
    K, R = rig(8 * latent, views).cameras()
    geometry = geometry_of(model, latent, views)
    sample, timestep, text = inputs(size, latent, views, device, dtype)
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
    calls = {"multi-view": lambda: run("fast", model), "plain twin": lambda: run("twin", slow)}
    compare("forward", calls, 1, device, held_memory(device))
    error = (outputs["fast"] - outputs["twin"]).abs().max() / outputs["twin"].abs().max()
    print(f"largest difference over largest value: {error:.1e}")


if __name__ == "__main__":
    main()
