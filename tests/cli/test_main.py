import importlib
import subprocess
import sys

import pytest

from mvdiff.cli import main as front
from mvdiff.cli.main import COMMANDS, main


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
    if command.module == "train":
        assert callable(module.run_trainer)
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
    assert "command must be one of quickstart, data, fit" in capsys.readouterr().err


class Failing:
    """A command module whose run raises."""

    def __init__(self, error):
        self.error = error

    def add_parser(self, subparsers):
        subparsers.add_parser("data")

    def run(self, args):
        raise self.error


def test_a_users_error_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(ValueError("yaw must be\nx; got y.")))
    assert main(["data"]) == 1
    assert capsys.readouterr().err == "mvdiff data: error: yaw must be x; got y.\n"


@pytest.mark.parametrize("by_variable", [False, True])
def test_debug_shows_the_traceback(monkeypatch, capsys, by_variable):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(FileNotFoundError("no such file")))
    if by_variable:
        monkeypatch.setenv("MVDIFF_DEBUG", "1")
    assert main(["data"] if by_variable else ["data", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(front.importlib, "import_module", lambda name: Failing(KeyError("bug")))
    with pytest.raises(KeyError):
        main(["data"])
