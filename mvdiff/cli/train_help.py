"""The help of `mvdiff fit|validate|test|predict`: mvdiff's own settings first, read without importing torch."""

from __future__ import annotations

import ast
import textwrap
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring
from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser

import mvdiff
from mvdiff.cli.command import Command
from mvdiff.cli.options import HelpFormatter
from mvdiff.settings import AdapterSettings, CacheSettings, MemorySettings, Sampling
from mvdiff.training.settings import OutputSettings

MODELS = ("mvdiff.training.multi_view.MultiViewModule", "mvdiff.training.single_view.SingleViewModule")
PANORAMAS = "mvdiff.data.datamodule.PanoramaDataModule"
RECORDINGS = "mvdiff.data.recording_datamodule.RecordingDataModule"
ANY_DATA = "mvdiff.data.keyed_datamodule.MultiViewDataModule"
ATTENTION = "mvdiff.models.attention.correspondence.CorrespondenceAwareAttention"
GROUPS = {kind.__name__: kind for kind in (AdapterSettings, Sampling, MemorySettings, CacheSettings, OutputSettings)}

COMMON = {
    "config": "a YAML file, or a packaged one by its name; repeat for overlays, later ones on top",
    "ckpt_path": "checkpoint to resume (fit) or to take the weights of",
    "total_batch_size": "samples per optimizer step over all devices; sets trainer.accumulate_grad_batches",
    "seed_everything": "random seed of everything that has no seed of its own",
    "plugin": "let model.init_adapter name classes of this package of yours; repeat for others. The modules of "
    "model.task and model.adapter.attention in your own YAML are let in anyway",
    "print_config": "print all settings as YAML and stop",
}
TRAINER = {
    "max_epochs": "passes over the training data",
    "max_steps": "optimizer steps; -1 for no limit",
    "devices": "number of devices, or their indices",
    "num_nodes": "machines",
    "accelerator": "cpu, gpu or auto",
    "strategy": "ddp, fsdp, ... or auto",
    "precision": "32-true, bf16-mixed, 16-mixed, ...",
    "default_root_dir": "folder of the run, where the logger has none",
    "logger": "class of a logger, such as lightning.pytorch.loggers.CSVLogger",
    "callbacks": "list of callbacks: checkpoints, model folder, average of the weights",
    "val_check_interval": "batches between two validations",
    "check_val_every_n_epoch": "epochs between two validations",
    "limit_train_batches": "train on so many batches (or this share) of an epoch",
    "limit_val_batches": "validate on so many batches (or this share)",
    "log_every_n_steps": "steps between two logged values",
    "gradient_clip_val": "largest norm of the gradients",
    "fast_dev_run": "run so many batches of everything, as a test of the set-up",
}


@dataclass(frozen=True)
class Setting:
    """A setting as a source file declares it."""

    name: str
    default: Any
    text: str


def settings_of(class_path: str) -> Iterator[Setting]:
    """Read the arguments of a class of mvdiff and their descriptions from its source; groups give their fields."""
    module, _, name = class_path.rpartition(".")
    source = (
        Path(mvdiff.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    )
    [cls] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name]
    texts = {one.arg_name: one.description for one in parse_docstring(ast.get_docstring(cls)).params}
    [init] = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    missing = [None] * (len(init.args.args) - 1 - len(init.args.defaults))
    for argument, default in zip(arguments, [*missing, *init.args.defaults, *init.args.kw_defaults], strict=True):
        if argument.arg == "channels":  # of attention, which the base gives
            continue
        group = GROUPS.get(ast.unparse(argument.annotation))
        if group is not None:
            yield from (Setting(f"{argument.arg}.{one.name}", one.default, one.text) for one in fields_of(group))
        else:
            value = default.value if isinstance(default, ast.Constant) else None
            yield Setting(argument.arg, value, texts[argument.arg])


def fields_of(settings: type) -> Iterator[Setting]:
    """Read the fields of a settings dataclass and the strings under them."""
    texts = {one.arg_name: one.description for one in parse_from_object(settings).params}
    for field in fields(settings):
        yield Setting(field.name, None if field.default is MISSING else field.default, texts[field.name])


def help_text(command: Command) -> str:
    """Return the help of a trainer command."""
    paragraphs = (
        f"usage: mvdiff {command.name} --config YAML [--config YAML ...] [--model.NAME VALUE] [--data.NAME VALUE] ...",
        f"{command.description} Settings stand in YAML files, under the names below; the command line changes single "
        "ones. Before a long run, `mvdiff doctor --config YAML` says what is missing.",
    )
    ways = {
        "trainer.help": "all settings of Lightning's Trainer",
        "model.help": f"all settings of a model class: --model.help {MODELS[1]}",
        "data.help": f"all settings of a data module: --data.help {RECORDINGS}",
        "help": "this page",
    }
    sections = (
        _section("command", "", _described(COMMON)),
        _section(f"model ({MODELS[0]})", "model.", settings_of(MODELS[0])),
        _section("attention across views", "model.adapter.attention.init_args.", settings_of(ATTENTION)),
        _section("data", "data.", settings_of(ANY_DATA)),
        _section("panoramas (mvdiff.data.datamodule.Matterport3DDataModule)", "data.", settings_of(PANORAMAS)),
        _section(f"recordings ({RECORDINGS})", "data.", settings_of(RECORDINGS)),
        _section("trainer, in short", "trainer.", _described(TRAINER)),
        _section("more help", "", _described(ways)),
        f"example:\n  {command.example}",
    )
    return "\n\n".join([*(textwrap.fill(text, 100) for text in paragraphs), *sections])


def trainer_help() -> str:
    """Return all settings of Lightning's Trainer."""
    from lightning.pytorch import Trainer

    parser = ArgumentParser(usage=SUPPRESS, formatter_class=HelpFormatter, add_help=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, sub_configs=True)
    return parser.format_help()


def _described(texts: Mapping[str, str]) -> list[Setting]:
    return [Setting(name, None, text) for name, text in texts.items()]


def _section(title: str, prefix: str, settings: Iterable[Setting]) -> str:
    parser = ArgumentParser(usage=SUPPRESS, formatter_class=HelpFormatter, add_help=False)
    group = parser.add_argument_group(title)
    for one in settings:
        text = " ".join(one.text.split()).replace("%", "%%")
        group.add_argument(f"--{prefix}{one.name}", default=one.default, help=text, metavar="")
    return parser.format_help().strip()
