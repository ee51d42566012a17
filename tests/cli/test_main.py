import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvdiff.cli import main as front
from mvdiff.cli.main import COMMANDS, main
from mvdiff.cli.opening import add_model_options

ROOT = Path(__file__).resolve().parents[2]


def test_without_arguments_shows_every_command_with_an_example(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in shown
        assert f"$ {command.example}" in shown
        assert command.example.startswith(f"mvdiff {command.name}")
    assert shown.index("Train:") < shown.index("Generate:") < shown.index("Score:")


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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_there(command):
    module = importlib.import_module(f"mvdiff.cli.{command.module}")
    if command.module in ("train", "doctor"):
        assert callable(module.run_trainer if command.module == "train" else module.run_doctor)
    else:
        assert callable(module.add_parser)
        assert callable(module.run)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.module != "train"], ids=lambda command: command.name)
def test_help_of_a_command_imports_no_torch(command):
    code = f"""
import sys
from mvdiff.cli.main import main
try:
    main([{command.name!r}, "--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {{"torch", "lightning", "diffusers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_unknown_command(capsys):
    assert main(["fti"]) == 2
    assert "command must be one of quickstart, data, doctor, fit" in capsys.readouterr().err


class Failing:
    """A command module whose run raises."""

    def __init__(self, error, command="data"):
        self.error = error
        self.command = command

    def add_parser(self, subparsers):
        subparsers.add_parser(self.command)

    def run(self, args):
        raise self.error

    run_trainer = run


def test_a_users_error_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(ValueError("yaw must be\nx; got y.")))
    assert main(["data"]) == 1
    assert capsys.readouterr().err == "mvdiff data: error: yaw must be x; got y.\n"


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.91 GiB of which 8.00 MiB is free. "
    "Including non-PyTorch memory, this process has 7.8 GiB memory in use. See documentation for Memory Management"
)


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("generate", "Take --dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"),
        ("demo", "Take --dtype bfloat16, --views_per_chunk 1, --vae_slicing, --vae_tiling or --cpu_offload model"),
        ("evaluate", "Use a device with more memory"),
        (
            "fit",
            "Set model.memory.gradient_checkpointing and model.memory.views_per_chunk, or model.memory.vae_slicing, "
            "or trainer.precision bf16-mixed",
        ),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_takes_less(monkeypatch, capsys, command, advice):
    failing = Failing(torch.OutOfMemoryError(OUT_OF_MEMORY), command)
    monkeypatch.setattr(front.importlib, "import_module", lambda name: failing)
    assert main([command]) == 1
    assert capsys.readouterr().err == (
        f"mvdiff {command}: error: the device must have enough memory; got: CUDA out of memory. Tried to allocate 2.50 "
        "GiB. GPU 0 has a total capacity of 7.91 GiB of which 8.00 MiB is free. "
        f"{advice} (docs/memory.md).\n"
    )


def test_the_switches_that_take_less_memory_are_options_and_settings():
    options = argparse.ArgumentParser()
    add_model_options(options)
    words = front._LESS_MEMORY["generate"].removeprefix("Take ").replace(" or ", ", ").split(", ")
    assert options.parse_args(" ".join(words).split()).cpu_offload == "model"
    page = (ROOT / "docs" / "memory.md").read_text()
    settings = [word for word in front._LESS_MEMORY["train"].replace(",", "").split() if word.startswith("model.")]
    assert len(settings) == 3
    for setting in settings:
        assert f"`{setting.removeprefix('model.')}: " in page


@pytest.mark.parametrize("by_variable", [False, True])
def test_debug_shows_the_traceback(monkeypatch, capsys, by_variable):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(FileNotFoundError("no such file")))
    if by_variable:
        monkeypatch.setenv("MVDIFF_DEBUG", "1")
    assert main(["data"] if by_variable else ["data", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [KeyError, RuntimeError])
def test_a_bug_is_not_hidden(monkeypatch, kind):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(kind("bug")))
    with pytest.raises(kind):
        main(["data"])
