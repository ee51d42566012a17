"""The help of `mvdiff fit|validate|test|predict`: mvdiff's own settings first, read without importing torch."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring
from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser

import mvdiff
from mvdiff.cli.command import Command
from mvdiff.cli.options import HelpFormatter
from mvdiff.settings import AdapterSettings, CacheSettings, LoraSettings, LossSettings, MemorySettings, Sampling
from mvdiff.training.settings import OutputSettings

MODELS = ("mvdiff.training.multi_view.MultiViewModule", "mvdiff.training.single_view.SingleViewModule")
PANORAMAS = "mvdiff.data.datamodule.PanoramaDataModule"
RECORDINGS = "mvdiff.data.recording_datamodule.RecordingDataModule"
ANY_DATA = "mvdiff.data.keyed_datamodule.MultiViewDataModule"
ATTENTION = "mvdiff.models.attention.correspondence.CorrespondenceAwareAttention"
GROUPS = {
    kind.__name__: kind
    for kind in (AdapterSettings, LoraSettings, LossSettings, Sampling, MemorySettings, CacheSettings, OutputSettings)
}

COMMON = {
    "config": "YAML file, or the name of a packaged one: pano.yaml, outpaint.yaml, depth_stage1.yaml, "
    "depth_stage2.yaml, pano_latents.yaml, pano_sd.yaml, pano_sdxl.yaml, pano_sana.yaml, or one under toy/, real/ or "
    "overlay/, such as toy/pano.yaml; repeat to combine files: later ones override earlier ones",
    "ckpt_path": "fit: checkpoint to resume from, or last for the newest of all versions (default: start a new run); "
    "validate, test, predict: checkpoint to load (default: the weights of model.init_adapter, or an untrained "
    "adapter); best-9.ckpt is the best one, of epoch 9",
    "total_batch_size": "samples per optimizer step over all devices, a multiple of data.batch_size x devices x nodes; "
    "sets trainer.accumulate_grad_batches, which must be left at 1 (default: accumulation as in "
    "trainer.accumulate_grad_batches)",
    "seed_everything": "global random seed, for your own code only; mvdiff's randomness depends on model.seed and "
    "data.seed (all three default to 0)",
    "plugin": "Python package from which the model may load classes; its code is executed; repeat for several",
    "print_config": "print all settings as YAML and stop",
}
_KINDS = {"bool": "{true,false}", "int": "N", "float": "X"}
TRAINER_TITLE = "trainer, in short (defaults: the YAML file's, else Lightning's; see --trainer.help)"
TRAINER = {
    "max_epochs": "stop after this many passes over the training data (integer); -1: no limit; the default "
    "learning-rate schedule needs max_epochs or max_steps",
    "max_steps": "stop after this many optimizer steps (integer); -1: no limit; the default learning-rate schedule "
    "needs max_epochs or max_steps",
    "devices": "number of devices, list of their indices such as [0, 2], or auto",
    "num_nodes": "number of machines (integer)",
    "accelerator": "cpu, gpu, auto or another Lightning name",
    "strategy": "ddp, auto, or {class_path: mvdiff.training.sharding.ShardedStrategy} as in overlay/sharded.yaml",
    "precision": "32-true, bf16-mixed, 16-mixed or another Lightning name",
    "default_root_dir": "folder for the run, if the logger sets none",
    "logger": "class of a logger, such as lightning.pytorch.loggers.CSVLogger; false: no logger",
    "callbacks": "list of callbacks (class_path and init_args): checkpoints, model folder, average of the weights",
    "val_check_interval": "validate every N batches (integer) or after this share of an epoch (0.0 to 1.0)",
    "check_val_every_n_epoch": "validate every N epochs (integer)",
    "limit_train_batches": "use at most this many (integer) or this share (0.0 to 1.0) of an epoch's training batches",
    "limit_val_batches": "use at most this many (integer) or this share (0.0 to 1.0) of the validation batches",
    "log_every_n_steps": "log every N optimizer steps (integer)",
    "gradient_clip_val": "clip the gradient norm to this value (number)",
    "fast_dev_run": "smoke test: run N batches (true: 1) of training and validation, and write nothing",
}


@dataclass(frozen=True)
class Setting:
    """A setting as a source file declares it."""

    name: str
    default: Any
    text: str
    kind: str = ""
    """choices or placeholder, as usage lines show them"""
    required: bool = False


def settings_of(class_path: str) -> Iterator[Setting]:
    """Read the arguments of a class of mvdiff and their descriptions from its source; groups give their fields."""
    module, _, name = class_path.rpartition(".")
    [cls] = [node for node in _parsed(module).body if isinstance(node, ast.ClassDef) and node.name == name]
    texts = {one.arg_name: one.description for one in parse_docstring(ast.get_docstring(cls)).params}
    [init] = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    missing = [None] * (len(init.args.args) - 1 - len(init.args.defaults))
    for argument, default in zip(arguments, [*missing, *init.args.defaults, *init.args.kw_defaults], strict=True):
        if argument.arg == "channels":  # of attention, which the base gives
            continue
        group = GROUPS.get(ast.unparse(argument.annotation))
        if group is not None:
            yield from (
                Setting(f"{argument.arg}.{one.name}", one.default, one.text, one.kind) for one in fields_of(group)
            )
        else:
            kind = _kind(ast.unparse(argument.annotation), module)
            text = texts[argument.arg][0].lower() + texts[argument.arg][1:]  # as the fields of groups begin
            yield Setting(argument.arg, _default(default, module), text, kind, required=default is None)


def fields_of(settings: type) -> Iterator[Setting]:
    """Read the fields of a settings dataclass and the strings under them."""
    texts = {one.arg_name: one.description for one in parse_from_object(settings).params}
    for field in fields(settings):
        default = None if field.default is MISSING else field.default
        yield Setting(field.name, default, texts[field.name], _kind(field.type, settings.__module__))


@cache
def _parsed(module: str) -> ast.Module:
    path = Path(mvdiff.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _assigned(name: str, module: str) -> ast.expr | None:
    """Return the value of a module's constant, which it may import from another module of mvdiff."""
    for node in _parsed(module).body:
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return node.value
        if isinstance(node, ast.ImportFrom) and name in (one.name for one in node.names):
            return _assigned(name, node.module) if node.module.startswith("mvdiff.") else None
    return None


def _default(value: ast.expr | None, module: str) -> Any:
    value = _assigned(value.id, module) if isinstance(value, ast.Name) else value
    return ast.literal_eval(value) if isinstance(value, ast.Constant | ast.Tuple) else None


def _kind(annotation: str, module: str) -> str:
    """Return how a value of a type is shown: choices in braces, or a placeholder; empty for other types."""
    names = [name for name in annotation.split(" | ") if name != "None"]
    if len(names) != 1:
        return ""
    [name] = names
    if name in _KINDS:
        return _KINDS[name]
    value = ast.parse(name, mode="eval").body
    value = _assigned(name, module) if isinstance(value, ast.Name) else value
    if not isinstance(value, ast.Subscript) or ast.unparse(value.value) != "Literal":
        return ""
    choices = ast.literal_eval(value.slice)
    return f"{{{','.join(choices if isinstance(choices, tuple) else (choices,))}}}"


def help_text(command: Command) -> str:
    """Return the help of a trainer command."""
    paragraphs = (
        f"usage: mvdiff {command.name} --config YAML [--config YAML ...] [--model.NAME VALUE] [--data.NAME VALUE] ...",
        f"{command.description} Settings come from YAML files; the command line overrides any of them. "
        "Before a long run, `mvdiff doctor --config YAML` says what is missing.",
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
        _section(TRAINER_TITLE, "trainer.", _described(TRAINER)),
        _section("more help", "", _described(ways)),
        f"example:\n  {command.example}",
    )
    width = shutil.get_terminal_size().columns - 2  # as argparse wraps options
    usage, text = (textwrap.fill(one, width, subsequent_indent=" " * 7 * (one is paragraphs[0])) for one in paragraphs)
    return "\n\n".join([usage, text, *sections])


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
        text = _with_default(one).replace("%", "%%")
        group.add_argument(f"--{prefix}{one.name}", help=text, metavar=one.kind)
    return parser.format_help().strip()


def _with_default(setting: Setting) -> str:
    """Return the text of a setting with its default as YAML has it, or what None stands for, where it names none."""
    text, default = " ".join(setting.text.split()), setting.default
    has_sentences = re.search(r'\. (?!" )', text) is not None  # a quoted text may end in ". "
    text = text if has_sentences or text.endswith("...") else text.removesuffix(".")
    if setting.required:
        return f"{text} (required)"
    if "(default: " in text:
        return text
    if default is None:
        meant = re.search(r"; None: ([^.]+)", text)
        if meant is None:
            return text
        text, default = text.replace(meant[0], ""), meant[1]
    elif isinstance(default, bool):
        default = str(default).lower()
    elif setting.name.endswith("_bytes"):
        default = f"{default / 2**30:g} GiB"
    elif isinstance(default, tuple):
        default = list(default)
    return f"{text} (default: {default})"
