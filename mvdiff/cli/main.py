"""The front of the `mvdiff` command: pick the command, run it, turn a user's mistake into one clear line.

Each command lives in `mvdiff/cli/<name>.py` (the four trainer commands share `train.py`) with `add_parser(subparsers)`
and `run(args)`; only the chosen one is imported, so that `mvdiff --help` needs neither torch nor lightning.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from mvdiff import __version__
from mvdiff.class_paths import allow_plugins

_OPTIONS = "--dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"
_SETTINGS = (
    "model.memory.gradient_checkpointing and model.memory.views_per_chunk, or model.memory.vae_slicing, or "
    "trainer.precision bf16-mixed"
)
_LESS_MEMORY = {"generate": f"Take {_OPTIONS}", "demo": f"Take {_OPTIONS}", "train": f"Set {_SETTINGS}"}


class Command(NamedTuple):
    """One command of the overview: its name, one line of help, an example, and its module under `mvdiff.cli`."""

    name: str
    help: str
    example: str
    module: str


def _command(help: str, example: str, module: str | None = None) -> Command:
    name = example.split()[1]
    return Command(name, help, example, module or name)


GROUPS = {
    "Start here": (
        _command("toy data, training, panoramas, scores and a report in minutes, without a GPU", "mvdiff quickstart"),
    ),
    "Data": (_command("make, split and check data sets", "mvdiff data check data/mp3d_skybox"),),
    "Train": (
        _command("check weights, data, steps and memory of a run before it", "mvdiff doctor --config pano.yaml"),
        _command("train a model from a YAML file", "mvdiff fit --config pano.yaml", "train"),
        _command(
            "held-out loss and overlap PSNR of a checkpoint",
            "mvdiff validate --config pano.yaml --ckpt_path last.ckpt",
            "train",
        ),
        _command(
            "generate the test split and score it", "mvdiff test --config pano.yaml --ckpt_path best.ckpt", "train"
        ),
        _command(
            "generate a data set's panoramas on any number of devices",
            "mvdiff predict --config pano.yaml --ckpt_path best.ckpt",
            "train",
        ),
    ),
    "Generate": (
        _command(
            "panoramas from prompts, frames of a scene from depth and poses",
            'mvdiff generate panorama --model runs/pano/version_0/model --prompt "a kitchen" --out out',
        ),
        _command("turn a training checkpoint into a model folder", "mvdiff export last.ckpt --out model"),
        _command(
            "published checkpoints to model folders, and back",
            "mvdiff convert upstream pano.ckpt --task panorama --out model",
        ),
    ),
    "Mesh": (
        _command(
            "fuse a sample's or a recording's frames into a coloured mesh",
            "mvdiff mesh out/scene0707_00 --out mesh.glb",
        ),
    ),
    "Score": (
        _command(
            "FID, Inception Score, CLIP score and overlap PSNR of sample folders",
            "mvdiff evaluate --generated out --reference truth --out results.json",
        ),
    ),
    "Look": (
        _command(
            "one page of samples, scores and meshes, methods side by side", "mvdiff report out other --out report.html"
        ),
        _command(
            "a camera that turns in a panorama, or the frames of a recording, as MP4",
            "mvdiff video out/0000 --out video.mp4",
        ),
        _command(
            "generate in the browser, from a page on this machine", "mvdiff demo --model runs/pano/version_0/model"
        ),
    ),
}
COMMANDS = tuple(command for commands in GROUPS.values() for command in commands)


def overview() -> str:
    """Return every command, grouped, with one example each.

    >>> "mvdiff fit --config" in overview()
    True
    """
    lines = ["mvdiff: train, run and score multi-view diffusion models", ""]
    for group, commands in GROUPS.items():
        lines.append(f"{group}:")
        for command in commands:
            lines += [f"  {command.name:<11} {command.help}", f"  {'':<11} $ {command.example}"]
    lines += ["", "mvdiff COMMAND --help explains a command; --debug (or MVDIFF_DEBUG=1) shows tracebacks."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default of `sys.argv`.

    Returns:
        0 on success, 1 after a user's error (one line on stderr). argparse exits with 2 on wrong options.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("MVDIFF_DEBUG", "") not in ("", "0")
    if "--debug" in arguments:
        arguments.remove("--debug")
        debug = True
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"mvdiff {__version__}")
        return 0
    command = next((c for c in COMMANDS if c.name == arguments[0]), None)
    if command is None:
        names = ", ".join(c.name for c in COMMANDS)
        print(f"mvdiff: command must be one of {names}; got {arguments[0]!r}. Run mvdiff --help.", file=sys.stderr)
        return 2
    try:
        return _run(command, arguments)
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        out_of_memory = _is_out_of_memory(error)
        if isinstance(error, RuntimeError) and not out_of_memory:
            raise
        if debug:
            traceback.print_exc()
        else:
            text = _too_little_memory(command, error) if out_of_memory else _one_line(error)
            print(f"mvdiff {command.name}: error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mvdiff {command.name}: interrupted", file=sys.stderr)
        return 130


def _run(command: Command, arguments: list[str]) -> int:
    module = importlib.import_module(f"mvdiff.cli.{command.module}")
    if command.module == "train":  # LightningCLI has a parser of its own
        return module.run_trainer(arguments) or 0
    if command.module == "doctor":  # it takes the trainer's arguments
        return module.run_doctor(arguments[1:])
    parser = argparse.ArgumentParser(prog="mvdiff")
    module.add_parser(parser.add_subparsers(dest="command", required=True))
    args = parser.parse_args(arguments)
    allow_plugins(*getattr(args, "plugin", ()))
    return module.run(args) or 0


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # imported by commands that use it, never here
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _too_little_memory(command: Command, error: BaseException) -> str:
    asked = ". ".join(_one_line(error).split(". ")[:3]).rstrip(".")  # for how much, of what is free; the rest tunes
    advice = _LESS_MEMORY.get(command.module, "Use a device with more memory")
    return f"the device must have enough memory; got: {asked}. {advice} (docs/memory.md)."


def _one_line(error: BaseException) -> str:
    text = str(error)
    if "Original Traceback" in text:  # of a loading process: what was raised there stands in the last line
        text = text.rstrip().rsplit("\n", 1)[-1].split(": ", 1)[-1]
    return " ".join(text.split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
