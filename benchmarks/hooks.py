"""Compare two ways to hang attention across views into a UNet: the written-out forward, and hooks on the UNet's own.

    PYTHONPATH=. python benchmarks/hooks.py --latent 16

Both are the same weights on the same views, in turns; medians of the process's CPU time, and whether the outputs are
equal bit for bit. The hooks are those that transformers use (`mvdiff.models.multiview_transformer`), at the places of a
UNet: before each downsampler and upsampler, after the first ResNet of the mid block, and at the ends without either.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from networks import build, geometry_of, inputs
from torch import Tensor, nn

from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.multiview_unet import MultiViewUNet


@contextmanager
def hooked(model: MultiViewUNet, geometry: MultiViewGeometry, views: int) -> Iterator[None]:
    """Hang the attention of a multi-view UNet into the UNet's own forward, for the time of the context."""
    unet, adapter, last = model.unet, model.adapter, model.num_levels - 1
    handles = []

    def updated(attention: nn.Module, level: int, hidden_states: Tensor) -> Tensor:
        rows = hidden_states.unflatten(0, (-1, views))
        return attention(rows, geometry.levels[level], None, None, None).flatten(0, 1)

    def before(module: nn.Module, attention: nn.Module, level: int) -> None:
        def run(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (updated(attention, level, args[0]), *args[1:])

        handles.append(module.register_forward_pre_hook(run))

    def after(module: nn.Module, attention: nn.Module, level: int) -> None:
        handles.append(module.register_forward_hook(lambda _, args, output: updated(attention, level, output)))

    for level, (block, attention) in enumerate(zip(unet.down_blocks, adapter.down_blocks, strict=True)):
        before(block.downsamplers[0] if block.downsamplers else unet.mid_block, attention, level)
    after(unet.mid_block.resnets[0], adapter.mid_block, last)
    for index, (block, attention) in enumerate(zip(unet.up_blocks, adapter.up_blocks, strict=True)):
        if block.upsamplers:
            before(block.upsamplers[0], attention, last - index)
        else:
            after(block, attention, last - index)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "35M", "sd2"], default="35M")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--latent", type=int, default=32, help="latent rows and columns")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = build(args.size, "cpu", torch.float32)
    assert model.adapter.config.mid_place == "after_first_resnet"
    geometry = geometry_of(model, args.latent, args.views)
    sample, timestep, text = inputs(args.size, args.latent, args.views, "cpu", torch.float32)

    def written_out() -> Tensor:
        return model(sample, timestep, text, geometry)

    def by_hooks() -> Tensor:
        with hooked(model, geometry, args.views):
            rows = timestep.expand(args.views)
            return model.unet(sample[0], rows, encoder_hidden_states=text[0], return_dict=False)[0][None]

    def training(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            model.adapter.zero_grad()
            forward().square().mean().backward()
            return torch.cat([weight.grad.flatten() for weight in model.trainable_parameters()])

        return step

    print(f"{args.size}, {args.views} views of {args.latent}x{args.latent} latents, {torch.get_num_threads()} threads")
    with torch.no_grad():
        compare("forward", written_out, by_hooks, args.repeats)
    compare("training step", training(written_out), training(by_hooks), args.repeats)


def compare(name: str, written_out: Callable[[], Tensor], by_hooks: Callable[[], Tensor], repeats: int) -> None:
    """Run both in turns, once to warm up, and print medians, their ratio, and whether the results are equal."""
    seconds: dict[Callable[[], Tensor], list[float]] = {written_out: [], by_hooks: []}
    results = {}
    for turn in range(repeats + 1):
        for run, times in seconds.items():
            start = time.process_time()
            results[run] = run()
            if turn:
                times.append(time.process_time() - start)
    first, second = (statistics.median(times) for times in seconds.values())
    same = "equal bit for bit" if torch.equal(*results.values()) else "not equal"
    print(f"{name}: written out {first:.3f} s, hooks {second:.3f} s ({second / first:.3f}x), {same}", flush=True)


if __name__ == "__main__":
    main()
