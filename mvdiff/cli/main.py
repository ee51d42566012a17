"""The front of the `mvdiff` command: pick the command, run it, turn a user's mistake into one clear line.

Each command lives in `mvdiff/cli/<name>.py` as `COMMANDS` (the four trainer commands share `trainer.py`; `import` is in
`import_.py`). These modules are free of torch: what a command needs to run, its function imports.
"""

import errno
import importlib
import os
import signal
import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Sequence
from types import ModuleType

from mvdiff import __version__
from mvdiff.class_paths import allow_plugins
from mvdiff.cli.command import UNFINISHED, Command
from mvdiff.cli.mistakes import dead_worker, did_you_mean, of_worker
from mvdiff.signals import Stopped, stopped_by

_OPTIONS = "--dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"
_SETTINGS = (
    "model.memory.gradient_checkpointing and model.memory.views_per_chunk, or model.memory.vae_slicing, or "
    "trainer.precision bf16-mixed"
)
_LESS_MEMORY = {name: f"Use {_OPTIONS}" for name in ("generate", "demo")} | {"fit": f"Set {_SETTINGS}"}


TRAINER = ("fit", "validate", "test", "predict")
SECTIONS = {
    "Start here": ("quickstart",),
    "Data": ("data",),
    "Train": ("doctor", *TRAINER),
    "Generate": ("generate", "export", "convert"),
    "Mesh": ("mesh",),
    "Score": ("import", "evaluate", "compare", "protocols", "benchmark"),
    "View": ("report", "video", "demo"),
}
"""First words of the commands, as the overview shows them."""
_FILES = {"import": "import_", **dict.fromkeys(TRAINER, "trainer")}
"""Modules of commands that are not called as the command is."""
_FOOTER = (
    "mvdiff COMMAND --help explains a command; mvdiff --version prints the version.",
    "--debug (or MVDIFF_DEBUG=1) shows tracebacks.",
    'In all help, "the paper" is MVDiffusion (2023), and "the 2023 release" is its authors\' code and checkpoints.',
)
NAMES = tuple(name for names in SECTIONS.values() for name in names)


def commands_of(name: str) -> tuple[Command, ...]:
    """Return the commands that begin with a word, those of one module under `mvdiff.cli`."""
    return tuple(command for command in _module(name).COMMANDS if command.name.split()[0] == name)


def summary_of(name: str) -> str:
    """Return a line about the commands that begin with a word.

    >>> summary_of("mesh")
    "fuse a sample's or a recording's frames into a coloured mesh"
    """
    first = commands_of(name)[0]
    return first.summary if first.name == name else _module(name).SUMMARY


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"mvdiff.cli.{_FILES.get(name, name)}")


def find_command(words: Sequence[str]) -> Command | None:
    """Return the command that words begin with, by two words or by one; None where they name none.

    >>> find_command(["generate", "panorama", "--out", "x"]).name, find_command(["quickstart", "--out", "x"]).name
    ('generate panorama', 'quickstart')
    """
    commands = {command.name: command for command in commands_of(words[0])} if words[0] in NAMES else {}
    if (len(commands) > 1 or words[0] not in commands) and words[1:] and not words[1].startswith("-"):
        return commands.get(" ".join(words[:2]))
    return commands.get(words[0])


def overview() -> str:
    """Return every command, grouped, with one example each.

    >>> "mvdiff fit --config" in overview()
    True
    """
    lines = ["mvdiff: train, run and score multi-view diffusion models (MVDiffusion, arXiv 2307.01097)", ""]
    for section, names in SECTIONS.items():
        lines.append(f"{section}:")
        for name in names:
            lines += [f"  {name:<11} {summary_of(name)}", f"  {'':<11} $ {commands_of(name)[0].example}"]
    return "\n".join([*lines, "", *_FOOTER])


def list_of(name: str) -> str:
    """Return the commands that begin with a word, with one example each."""
    lines = [f"mvdiff {name}: {summary_of(name)}", ""]
    for command in commands_of(name):
        lines += [f"  {command.name:<20} {command.summary}", f"  {'':<20} $ {command.example}"]
    return "\n".join([*lines, "", f"mvdiff {name} COMMAND --help explains one of them."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default of `sys.argv`.

    Returns:
        0 on success, 1 after a user's error (one line on stderr), 2 after a wrong command or option, 3 if the work
        could not be done (a full disk, or losses, gradients or weights that are not finite), 128 + number of the signal
        that ended the work. Options that the parser refuses exit with 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("MVDIFF_DEBUG", "") not in ("", "0")
    if "--debug" in words:
        words.remove("--debug")
        debug = True
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"mvdiff {__version__}")
        return 0
    command = find_command(words)
    if command is None:
        return _without_command(words)
    try:
        with stopped_by(signal.SIGTERM):
            return run_command(command, words[len(command.name.split()) :])
    except ArgumentTypeError as error:
        print(f"mvdiff {command.name}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError, FloatingPointError) as error:
        out_of_memory, dead = _is_out_of_memory(error), dead_worker(error)
        if isinstance(error, RuntimeError) and not (out_of_memory or dead):
            raise
        if debug:
            traceback.print_exc()
        else:
            text = _too_little_memory(command, error) if out_of_memory else dead or _one_line(error)
            print(f"mvdiff {command.name}: error: {text}", file=sys.stderr)
        return UNFINISHED if dead or isinstance(error, FloatingPointError) or _is_full_disk(error) else 1
    except Stopped as stopped:
        if str(stopped):
            print(f"mvdiff {command.name}: {stopped}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print(f"mvdiff {command.name}: interrupted", file=sys.stderr)
        return 130


def run_command(command: Command, words: Sequence[str]) -> int:
    """Run a command with the words that follow it; return the exit status."""
    if command.settings is None:
        return command.run(words)
    from mvdiff.cli.options import CommandParser

    settings = CommandParser(command).settings(words)
    for group in settings:
        allow_plugins(*(getattr(group, "plugin", None) or ()))
    return command.run(*settings, words=words) if command.takes_words else command.run(*settings)


def _without_command(words: Sequence[str]) -> int:
    """Show what could follow a first word, or say that a word is no command; return the exit status."""
    if words[0] in NAMES and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(list_of(words[0]), file=sys.stdout if len(words) > 1 else sys.stderr)
        return 0 if len(words) > 1 else 2
    if words[0] in NAMES:
        names, word = [command.name for command in commands_of(words[0])], " ".join(words[:2])
    else:
        names, word = list(NAMES), words[0]
    close = did_you_mean(word, names)
    print(
        f"mvdiff: command must be one of {', '.join(names)}; got {word!r}{close}. Run mvdiff --help.", file=sys.stderr
    )
    return 2


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # imported by commands that use it, never here
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _too_little_memory(command: Command, error: BaseException) -> str:
    asked = ". ".join(_one_line(error).split(". ")[:3]).rstrip(".")  # for how much, of what is free; the rest tunes
    name = command.name.split()[0]
    advice = _LESS_MEMORY.get("fit" if name in TRAINER else name, "Use a device with more memory")
    return f"the device must have enough memory; got: {asked}. {advice} (docs/memory.md)."


def _one_line(error: BaseException) -> str:
    text = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    return " ".join(of_worker(text).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
