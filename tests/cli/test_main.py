import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvdiff.cli import main as front
from mvdiff.cli.command import Command
from mvdiff.cli.main import NAMES, TRAINER, commands_of, main
from mvdiff.cli.opening import MemoryOptions, ModelOptions
from mvdiff.cli.options import CommandParser

ROOT = Path(__file__).resolve().parents[2]


def test_without_arguments_shows_every_command_with_an_example(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"  {name} " in shown
        assert f"$ {commands_of(name)[0].example}" in shown
    assert shown.index("Train:") < shown.index("Generate:") < shown.index("Score:")
    for text in ("mvdiff --version", "arXiv 2307.01097", '"the paper" is', '"the 2023 release" is'):
        assert text in shown


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_needs_no_heavy_library(arguments):
    code = f"""
import sys
from mvdiff.cli.main import main
assert main({arguments!r}) == 0
heavy = {{"torch", "lightning", "diffusers", "transformers", "numpy", "jsonargparse"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_of_commands_imports_no_torch():
    """One process shows them all: what any of them imports stays imported."""
    names = [command.name.split() for name in NAMES if name not in TRAINER for command in commands_of(name)]
    code = f"""
import sys
from mvdiff.cli.main import main
for words in {names!r}:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
assert not {{"torch", "lightning", "diffusers", "numpy", "rich"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["fti"], "fit"),
        (["generate", "panorma"], "generate panorama"),
        (["dta", "check"], "data"),
        (["quickstart", "depht"], "quickstart depth"),
    ],
)
def test_an_unknown_command(capsys, words, meant):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"(did you mean {meant}?)" in error
    assert error.count("\n") == 1


def test_a_first_word_alone_lists_what_may_follow(capsys):
    assert main(["generate"]) == 2
    assert "$ mvdiff generate outpaint" in capsys.readouterr().err
    assert main(["generate", "--help"]) == 0
    assert "$ mvdiff generate outpaint" in capsys.readouterr().out


def failing(error, name="data check"):
    """A command whose run raises."""

    def run(words):
        raise error

    return lambda words: Command(name=name, summary="", description="", example="", settings=None, run=run)


def test_a_users_error_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(front, "find_command", failing(ValueError("yaw must be\nx; got y.")))
    assert main(["data", "check"]) == 1
    assert capsys.readouterr().err == "mvdiff data check: error: yaw must be x; got y.\n"


@pytest.mark.parametrize("command", ["fit", "doctor"])
def test_a_run_without_a_config(command, capsys):
    assert main([command]) == 1
    assert f"mvdiff {command}: error: --config must be given" in capsys.readouterr().err


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.91 GiB of which 8.00 MiB is free. "
    "Including non-PyTorch memory, this process has 7.8 GiB memory in use. See documentation for Memory Management"
)


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("generate", "Use --dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"),
        ("demo", "Use --dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"),
        ("evaluate", "Use a device with more memory"),
        (
            "fit",
            "Set model.memory.gradient_checkpointing and model.memory.views_per_chunk, or model.memory.vae_slicing, "
            "or trainer.precision bf16-mixed",
        ),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_takes_less(monkeypatch, capsys, command, advice):
    monkeypatch.setattr(front, "find_command", failing(torch.OutOfMemoryError(OUT_OF_MEMORY), command))
    assert main([command]) == 1
    assert capsys.readouterr().err == (
        f"mvdiff {command}: error: the device must have enough memory; got: CUDA out of memory. Tried to allocate 2.50 "
        "GiB. GPU 0 has a total capacity of 7.91 GiB of which 8.00 MiB is free. "
        f"{advice} (docs/memory.md).\n"
    )


def test_the_switches_that_take_less_memory_are_options_and_settings():
    switches = Command(
        name="x", summary="", description="", example="", settings=(ModelOptions, MemoryOptions), run=print
    )
    words = front._LESS_MEMORY["generate"].removeprefix("Use ").replace(" or ", ", ").split(", ")
    model, memory = CommandParser(switches).settings(["--model", "x", *" ".join(words).split()])
    assert model.dtype == "bfloat16"
    assert memory == MemoryOptions(cpu_offload="model", views_per_chunk=1, vae_slicing=True, vae_tiling=True)
    page = (ROOT / "docs" / "memory.md").read_text()
    settings = [word for word in front._LESS_MEMORY["fit"].replace(",", "").split() if word.startswith("model.")]
    assert len(settings) == 3
    for setting in settings:
        assert f"`{setting.removeprefix('model.')}: " in page


@pytest.mark.parametrize("by_variable", [False, True])
def test_debug_shows_the_traceback(monkeypatch, capsys, by_variable):
    monkeypatch.setattr(front, "find_command", failing(FileNotFoundError("no such file")))
    if by_variable:
        monkeypatch.setenv("MVDIFF_DEBUG", "1")
    assert main(["data"] if by_variable else ["data", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [KeyError, RuntimeError])
def test_a_bug_is_not_hidden(monkeypatch, kind):
    monkeypatch.setattr(front, "find_command", failing(kind("bug")))
    with pytest.raises(kind):
        main(["data"])


def test_the_package_is_the_command(monkeypatch, capsys):
    """`python -m mvdiff` and `torchrun -m mvdiff`, which starts it likewise."""
    monkeypatch.setattr(sys, "argv", ["mvdiff", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("mvdiff", run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("mvdiff ")
