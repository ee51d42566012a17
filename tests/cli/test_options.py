"""Options from settings: every field is an option with its default and its help."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from mvdiff.cli.options import add_settings, field_help, settings_of
from mvdiff.recipes.settings import DepthSettings, OutpaintSettings, PanoramaSettings


@dataclass(frozen=True, kw_only=True)
class Parent:
    out: Path = Path("out")
    """folder"""
    rate: float = 0.5
    """share, 50% by default"""


@dataclass(frozen=True, kw_only=True)
class Child(Parent):
    rate: float = 0.25
    count: int = 3
    """number of views"""


def test_a_child_takes_the_help_of_its_parent_and_its_own_defaults(capsys):
    parser = argparse.ArgumentParser()
    add_settings(parser, Child)
    assert settings_of(parser.parse_args([]), Child) == Child()
    assert settings_of(parser.parse_args(["--rate", "1", "--out", "x"]), Child) == Child(rate=1.0, out=Path("x"))
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "share, 50% by default (default: 0.25)" in text
    assert "number of views (default: 3)" in text


@pytest.mark.parametrize("settings", [PanoramaSettings, DepthSettings, OutpaintSettings])
def test_every_setting_of_a_quickstart_is_explained(settings):
    assert {field.name for field in fields(settings)} <= field_help(settings).keys()
