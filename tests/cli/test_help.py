"""Help of every command: an example that its own parser takes, and what is written where."""

import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
from lightning.pytorch import Trainer

from mvdiff.cli import train_help
from mvdiff.cli.main import NAMES, commands_of, main
from mvdiff.cli.options import CommandParser

COMMANDS = {command.name: command for name in NAMES for command in commands_of(name)}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_says_what_is_written(name, capsys):
    command = COMMANDS[name]
    if command.settings is None:
        assert main([name, "--help"]) == 0
    else:
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert text.endswith(f"example:\n  {command.example}\n")
    assert re.search(r"\b([Ww]rit|Prints)", " ".join(text.split("\n\n")[1].split()))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_parses(name, capsys):
    program, *words = shlex.split(COMMANDS[name].example)
    assert program == "mvdiff"
    assert " ".join(words).startswith(name)
    if COMMANDS[name].settings is not None:
        CommandParser(COMMANDS[name]).settings(words[len(name.split()) :])
        return
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    assert stopped.value.code == 0, capsys.readouterr().err


def test_help_of_fit_begins_with_the_settings_of_mvdiff_and_imports_no_torch():
    code = """
import sys
from mvdiff.cli.main import main
assert main(["fit", "--help"]) == 0
assert not {"torch", "lightning", "diffusers"} & set(sys.modules)
"""
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    places = [
        text.index(f"--{name}") for name in ("total_batch_size", "model.task", "data.batch_size", "trainer.max_ep")
    ]
    assert places == sorted(places)
    for name in ("model.sampling.eta", "model.cache.dir", "model.output.evaluation", "model.memory.vae_slicing"):
        assert f"--{name} " in text
    words = " ".join(text.split())
    assert re.search(r"--model\.adapter\.mid_place {after_first_resnet,after_mid_block} ", words)
    assert re.search(r"--data\.mirror {true,false} [^-]*\(default: false\)", words)
    assert re.search(r"--data\.max_between N [^-]*\(default: 10\)", words)


@pytest.mark.parametrize(
    "path",
    [*train_help.MODELS[:1], train_help.ATTENTION, train_help.ANY_DATA, train_help.PANORAMAS, train_help.RECORDINGS],
)
def test_settings_are_those_of_the_class(path):
    module, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    own = {one for one, it in parameters.items() if it.kind is not it.VAR_KEYWORD} - {"channels"}
    shown = list(train_help.settings_of(path))
    assert {setting.name.partition(".")[0] for setting in shown} == own
    for setting in shown:
        assert setting.text
        if setting.name in parameters and setting.default is not None:
            assert setting.default == parameters[setting.name].default


def test_the_trainers_settings_are_there():
    assert train_help.TRAINER.keys() <= inspect.signature(Trainer).parameters.keys()


def test_all_settings_of_a_class_on_demand(capsys):
    assert main(["fit", "--trainer.help"]) == 0
    assert "--trainer.sync_batchnorm" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model.help", "mvdiff.training.single_view.SingleViewModule"])
    assert stopped.value.code == 0
    assert "--model.train_text_encoder" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", "--model.help"])
    assert "--model.adapter.mid_place" in capsys.readouterr().out
