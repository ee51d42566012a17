"""Count the floating-point operations of one training sample of the paper's panorama run; nothing is computed.

    PYTHONPATH=. python benchmarks/flops.py [--views 8] [--latent 64]

Modules of Stable Diffusion 2's sizes stand on the meta device, where torch counts the multiplications and additions of
matrix products, convolutions and attention (`torch.utils.flop_counter`; a multiplication and an addition are two).
Gathers, norms and activations count nothing. Backward goes through the frozen UNet to the adapter's weights.
"""

import argparse
from collections.abc import Callable, Iterable

import torch
from memory import sd2_text_encoder, sd2_unet, sd2_vae
from networks import geometry_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def counted(run: Callable[[], object]) -> float:
    """Return the TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module without memory for its weights."""
    with torch.device("meta"):
        return make().requires_grad_(False)


def count(modules: Iterable[nn.Module]) -> int:
    """Return the number of parameters."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--latent", type=int, default=64, help="latent rows and columns of a view")
    args = parser.parse_args()
    views, side = args.views, args.latent

    model = meta(sd2_unet)
    model.adapter.requires_grad_(True).to_empty(device="cpu")  # taps are real: their number counts
    taps = geometry_of(model, side, views).to("meta")
    model.adapter.to("meta")
    sample = torch.empty(1, views, 4, side, side, device="meta")
    text = torch.empty(1, views, 77, 1024, device="meta")
    step = torch.empty(1, dtype=torch.long, device="meta")
    vae, encoder = meta(sd2_vae), meta(sd2_text_encoder)
    pixels = torch.empty(views, 3, 8 * side, 8 * side, device="meta")
    tokens = torch.empty(views, 77, dtype=torch.long, device="meta")

    @torch.no_grad()
    def forward(where):
        model(sample, step, text, where)

    rows = {
        "UNet forward": counted(lambda: forward(None)),
        "UNet and attention across views, forward": counted(lambda: forward(taps)),
        "UNet and attention across views, forward and backward": counted(
            lambda: model(sample, step, text, taps).square().mean().backward()
        ),
        "autoencoder": counted(lambda: vae.encode(pixels)),
        "text encoder": counted(lambda: encoder(tokens)),
    }
    trained, base = map(count, ((model.adapter,), (model.unet, vae, encoder)))
    print(f"{views} views of {side}x{side} latents; {trained:,} trained parameters, {base:,} of the base")
    for name, value in rows.items():
        print(f"{name:56} {value:8.2f} TFLOP")


if __name__ == "__main__":
    main()
