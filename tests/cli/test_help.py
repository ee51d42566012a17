"""Help of every command: an example that its own parser takes, and what is written where."""

import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
from jsonargparse import set_parsing_settings
from lightning.pytorch import Trainer

from mvdiff.cli import train_help
from mvdiff.cli.main import NAMES, commands_of, main
from mvdiff.cli.options import CommandParser
from mvdiff.eval.runner import DEFAULT_METRICS
from mvdiff.recipes.settings import DepthSettings, PanoramaSettings
from mvdiff.run_files import configs_folder
from mvdiff.settings import AdapterSettings, CacheSettings, MemorySettings, Sampling
from mvdiff.training.settings import OutputSettings

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
    assert "Raises:" not in text
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
    assert words.count("--data.root folder") == words.count("(required)") == 2
    assert '(default: "This is one view of a scene. " for panorama and outpaint, none for depth) --' in words
    assert "with task depth 0.3, as in the paper) --" in words


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
    set_parsing_settings(docstring_parse_attribute_docstrings=False)  # as before any other command was parsed
    try:
        with pytest.raises(SystemExit):
            main(["fit", "--model.help"])
    finally:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "; null: a newly initialised one" in shown
    assert "None:" not in shown
    groups = {"adapter": AdapterSettings, "sampling": Sampling, "memory": MemorySettings, "cache": CacheSettings}
    for group, settings in (groups | {"output": OutputSettings}).items():
        for one in train_help.fields_of(settings):
            assert re.search(rf"--model\.{group}\.{one.name}[^-]* {re.escape(' '.join(one.text.split())[:30])}", shown)


def test_a_text_keeps_its_ellipsis_and_loses_its_full_stop():
    texts = {"such as a, b, ...": "such as a, b, ...", "a word.": "a word", "One. Two.": "One. Two."}
    for text, shown in texts.items():
        assert train_help._with_default(train_help.Setting("name", None, text)) == shown


def test_packaged_configs_are_named():
    text = train_help.COMMON["config"]
    for path in configs_folder().rglob("*.yaml"):
        name = path.relative_to(configs_folder())
        assert name.parts[0] == "common" or (f"{name}" if len(name.parts) == 1 else f"{name.parts[0]}/") in text


def test_help_of_evaluate_names_the_default_metrics(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {', '.join(DEFAULT_METRICS)})" in text
    assert "thing_colours (from Python only)" in text
    assert "--overlap_pairs {adjacent,overlapping,...}" in text


def test_usage_says_where_several_folders_fit(capsys):
    for words, usage in ((["report"], "DIR [DIR ...] [--options]"), (["generate", "depth"], "--scene PATH [PATH ...]")):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        assert usage in capsys.readouterr().out


def test_seeds_of_the_quickstarts_name_the_worlds_they_refuse(capsys):
    for words, settings in ((["quickstart"], PanoramaSettings), (["quickstart", "depth"], DepthSettings)):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        worlds = " or ".join(map(str, settings.trained_worlds))
        assert re.search(f"not {worlds}, the seeds? of the rooms", " ".join(capsys.readouterr().out.split()))


def test_names_are_not_broken_at_hyphens(capsys, monkeypatch):
    for columns in range(90, 130, 3):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main(["demo", "--help"])
        assert not re.search(r"mvdiff://toy-$", capsys.readouterr().out, re.M)


def test_a_value_that_begins_with_a_dash_is_explained_in_fit(capsys):
    assert main(["fit", "--config", "pano.yaml", "--model.prompt_prefix", "-dash"]) == 1
    assert "write --model.prompt_prefix=-dash. Run mvdiff fit --help" in capsys.readouterr().err


def test_negative_prompts_of_views_are_a_json_list():
    words = ["--prompt", "a", "--out", "o", "--model", "m", "--negative_prompt", '["fog", "text"]']
    sampling = CommandParser(COMMANDS["generate panorama"]).settings(words)[3]
    assert list(sampling.negative_prompt) == ["fog", "text"]
