"""Work out batch, steps, time, loaders, network and storage for any number of GPUs, as Markdown tables.

    python docs/scale_table.py                                       # the tables of docs/scale.md
    python docs/scale_table.py --gpus 16 128 --set h100_use=0.2      # with figures of your own
    python docs/scale_table.py --set gpu_rate=5.2                    # samples/s that a run of yours logs

`FIGURES` holds every figure with its source; all else is arithmetic on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from math import sqrt

SHARDS, FLOPS = "measured here, `benchmarks/shards.py`", "counted here, `benchmarks/flops.py`"
FIGURES: dict[str, tuple[float, str, str]] = {
    "panoramas": (9_804, "training panoramas", "`configs/pano.yaml`: the paper's 9,820 less 16 to validate on"),
    "epochs": (10, "epochs", "paper, section 5.1"),
    "batch": (4, "samples of a step", "paper, section 5.1"),
    "lr": (2e-4, "learning rate of AdamW", "paper, section 5.1"),
    "a6000_rate": (
        0.28,
        "samples/s of an A6000",
        "released code: 98,040 samples, four GPUs, about a day; **not measured here**",
    ),
    "h100_tflops": (989, "TFLOP/s of an H100 SXM, bfloat16, dense", "NVIDIA's data sheet; **not measured here**"),
    "h100_use": (0.35, "share of them that training reaches", "an assumption; **not measured here**"),
    "step_tflop": (14.86, "TFLOP a sample: UNet and attention, forward and backward", FLOPS),
    "encode_tflop": (9.29, "TFLOP a sample: autoencoder and text encoder", FLOPS),
    "trained": (147_572_480, "trained parameters", FLOPS),
    "base": (1_289_952_427, "parameters of the base", FLOPS),
    "files_rate": (5.8, "samples/s and core from files, cold", SHARDS),
    "images_rate": (5.9, "samples/s and core from shards of images, cold", SHARDS),
    "latents_rate": (145, "samples/s and core from shards of latents, cold", SHARDS),
    "images_mb": (1.77, "MB a panorama in shards of images", SHARDS),
    "latents_mb": (3.05, "MB of a yaw and eight prompts, float32", "4 bytes x (8 x 4 x 64 x 64 + 8 x 77 x 1,024)"),
}


def number(value: float) -> str:
    """Write a number to two digits, or as a whole one.

    >>> [number(value) for value in (0.0123, 2.345, 45.6, 9804)]
    ['0.012', '2.3', '46', '9,804']
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def exact(value: float) -> str:
    """Write a figure with all its digits.

    >>> [exact(value) for value in (0.0002, 14.86, 147572480)]
    ['0.0002', '14.86', '147,572,480']
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def duration(hours: float) -> str:
    """Write a time.

    >>> [duration(hours) for hours in (0.01, 0.05, 3.21, 50)]
    ['36 s', '3 min', '3.2 h', '2.1 d']
    """
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(values: Mapping[str, float]) -> str:
    """Return the table of figures and sources."""
    rows = ((f"`{key}`", name, exact(values[key]), source) for key, (_, name, source) in FIGURES.items())
    return table(["name", "figure", "value", "source"], rows)


def gpu_rate(values: Mapping[str, float], encoded: bool = False) -> float:
    """Return samples/s of a GPU: the user's own, or what an H100's arithmetic allows."""
    work = values["step_tflop"] + (0 if encoded else values["encode_tflop"])
    return values.get("gpu_rate") or values["h100_tflops"] * values["h100_use"] / work


def training(values: Mapping[str, float], gpus: Iterable[int]) -> str:
    """Return batch, learning rate, steps and time: one sample a GPU, or accumulation up to the paper's batch."""
    rows = []
    samples = values["panoramas"] * values["epochs"]
    for count in gpus:
        batch = max(int(values["batch"]), count)
        steps = int(values["panoramas"]) // batch
        hours = samples / count / 3600  # at one sample/s and GPU
        rates = [values["a6000_rate"], gpu_rate(values), gpu_rate(values, encoded=True)]
        cells = [f"{count}", f"{batch}", f"{values['lr'] * sqrt(batch / values['batch']):.1e}", f"{steps:,}"]
        rows.append([*cells, f"{int(steps * values['epochs']):,}", *(duration(hours / rate) for rate in rates)])
    head = ["GPUs", "samples a step", "learning rate", "steps an epoch", "steps", "time at the A6000's rate"]
    return table([*head, "H100, images", "H100, latents"], rows)


def feeding(values: Mapping[str, float], gpus: Iterable[int]) -> str:
    """Return what loaders, storage and network carry while all GPUs are busy, a sample on each at a time."""
    rows = []
    for count in gpus:
        for what, encoded in (("images", False), ("latents", True)):
            rate = gpu_rate(values, encoded)
            gradients = 4 * values["trained"] / 1e9 * 2 * (count - 1) / count  # GB that a GPU sends a step: a ring
            cells = [f"{count}", what, number(rate * count), number(rate * count / values[f"{what}_rate"])]
            rows.append([*cells, number(rate * count * values[f"{what}_mb"]), number(rate * gradients)])
    head = ["GPUs", "shards", "samples/s", "cores that load", "MB/s from storage", "GB/s of gradients a GPU"]
    return table(head, rows)


def storage(values: Mapping[str, float]) -> str:
    """Return sizes on disk."""
    adapter, panoramas = 4 * values["trained"] / 1e9, values["panoramas"] / 1000
    rows = {
        "shards of images": (panoramas * values["images_mb"], "`panoramas` x `images_mb`"),
        "shards of latents, one yaw": (panoramas * values["latents_mb"], "`panoramas` x `latents_mb`"),
        "base, float32, read once by each node": (4 * values["base"] / 1e9, "4 bytes x `base`"),
        "a checkpoint": (3 * adapter, "4 bytes x `trained`: weights and two moments of AdamW"),
        "checkpoints of a run": (9 * adapter, "`last`, `last.previous` and the best"),
    }
    return table(["what", "GB", "from"], ([name, number(size), how] for name, (size, how) in rows.items()))


def page_tables(values: Mapping[str, float], gpus: Iterable[int]) -> list[str]:
    """Return all tables."""
    gpus = list(gpus)
    return [figures(values), training(values, gpus), feeding(values, gpus), storage(values)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    values = {key: value for key, (value, *_) in FIGURES.items()}
    for setting in options.set:
        name, _, value = setting.partition("=")
        if name not in {*FIGURES, "gpu_rate"}:
            parser.error(f"--set must name one of {', '.join([*FIGURES, 'gpu_rate'])}; got {name!r}")
        values[name] = float(value)
    print("\n\n".join(page_tables(values, options.gpus)))


if __name__ == "__main__":
    main()
