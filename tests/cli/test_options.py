"""Options from settings: every field is an option with its type, its default and its help."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from mvdiff.cli.command import Command
from mvdiff.cli.main import NAMES, commands_of, main
from mvdiff.cli.options import CommandParser
from mvdiff.cli.renamed import RENAMED_OPTIONS


@dataclass(frozen=True, kw_only=True)
class Parent:
    """Things."""

    worlds: ClassVar[int] = 3
    """no option"""
    source: Path = field(kw_only=False)
    """what is read"""
    out: Path = Path("out")
    """folder"""
    rate: float = 0.5
    """share, 50% by default"""


@dataclass(frozen=True, kw_only=True)
class Child(Parent):
    """Other things."""

    rate: float = 0.25
    count: int = 0
    """number of views"""
    image: list[Path] | None = None
    """picture; repeat for several"""
    names: tuple[str, ...] = ()
    """names"""
    mode: Literal["full", "half"] | None = None
    """how much"""
    metrics: tuple[str | dict[str, Any], ...] = ()
    """name or mapping"""
    force: bool = False
    """do it anyway"""


COMMAND = Command(name="do", summary="do it", description="Do it.", example="mvdiff do x", settings=(Child,), run=print)
COMMANDS = {command.name: command for name in NAMES for command in commands_of(name) if command.settings}


def parsed(*words: str) -> Child:
    [settings] = CommandParser(COMMAND).settings(words)
    return settings


def shown(command: Command, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        CommandParser(command).settings(["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def error_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        parsed(*words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_types_say_how_options_are_typed():
    assert parsed("x") == Child(Path("x"))
    words = "--image a.png --rate 1 --names a b --mode half --force --image b.png x"
    expected = {
        "rate": 1.0,
        "names": ("a", "b"),
        "mode": "half",
        "force": True,
        "image": [Path("a.png"), Path("b.png")],
    }
    assert parsed(*words.split()) == Child(Path("x"), **expected)
    metrics = parsed("x", "--metrics", "fid", '{"class_path": "a.B", "init_args": {"c": 1}}').metrics
    assert metrics == ("fid", {"class_path": "a.B", "init_args": {"c": 1}})


def test_a_child_takes_the_help_of_its_parent_and_its_own_defaults(capsys):
    text = " ".join(shown(COMMAND, capsys).split())
    assert text.startswith("usage: mvdiff do SOURCE [--options] Do it.")
    assert "--rate X share, 50% by default (default: 0.25)" in text
    assert "--count N number of views (default: 0)" in text
    assert "worlds" not in text
    assert text.endswith("example: mvdiff do x")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["x", "--cuont", "3"], "no option --cuont (did you mean --count?)"),
        (["x", "--cuont=3"], "no option --cuont (did you mean --count?)"),
        (["x", "--zzz"], "no option --zzz. Run mvdiff do --help."),
        (["x", "y"], "unexpected argument 'y'"),
        ([], "SOURCE must be given"),
        (["x", "--count", "three"], "--count: expected int; got three"),
        (["x", "--mode", "ful"], "--mode: expected one of 'full', 'half'; got ful"),
        (["x", "--cou", "3"], "no option --cou (did you mean --count?)"),
        (
            ["x", "--image", "-dash"],
            "got -dash, which looks like an option. If it is the value, write --image=-dash. Run",
        ),
        (["x", "--names"], "--names must have a value; got nothing"),
        (["x", "--count", "--force"], "--count must have a value; got --force, which looks like an option"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, words, text):
    assert text in error_of(capsys, *words)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_option_is_explained(command, capsys):
    text = shown(command, capsys)
    for settings in command.settings:
        for option in fields(settings):
            name = f"(?:{option.name.upper()}|--{option.name})"
            [described] = re.findall(
                rf"^  {name}(?: [A-Za-z{{\[][^\n]*?)?(?:  |\n)(.*?)(?=\n  -|\n\n)", text, re.S | re.M
            )
            assert len(described.strip()) > 5, name


@pytest.mark.parametrize("command", COMMANDS, ids=COMMANDS)
def test_renamed_options_name_the_new_ones(command, capsys):
    assert RENAMED_OPTIONS.keys() <= COMMANDS.keys()
    for old, new in RENAMED_OPTIONS.get(command, {}).items():
        with pytest.raises(SystemExit):
            main([*command.split(), old, "1"])
        assert f"{old} is now {new}." in capsys.readouterr().err
        text = shown(COMMANDS[command], capsys)
        assert old not in text.split()
        assert set(new.split(" and ")) <= set(text.split())
