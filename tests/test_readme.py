"""What the README tells people to type exists: targets, commands, options, files."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mvdiff.cli.config_files import config_path
from mvdiff.cli.main import COMMANDS as KNOWN

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`(mvdiff [^`]+)`", README)))
TRAINER = {"fit", "validate", "test", "predict"}


def test_two_make_targets_do_everything():
    blocks = re.findall(r"```bash\n(.*?)\n```", README, flags=re.DOTALL)
    assert blocks[:2] == ["make quickstart", "make test"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    words = shlex.split(command)[1:]
    if words[0] in TRAINER:  # LightningCLI parses these; tests/test_configs.py reads each config with it
        assert config_path(words[words.index("--config") + 1]).is_file()
        return
    [known] = [command for command in KNOWN if command.name == words[0]]
    parser = argparse.ArgumentParser()
    importlib.import_module(f"mvdiff.cli.{known.module}").add_parser(parser.add_subparsers(required=True))
    parser.parse_args(words)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).is_file(), link
