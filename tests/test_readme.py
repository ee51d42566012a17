"""What README and docs tell people to type exists: targets, commands, options, files."""

import re
import shlex
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

from mvdiff.cli.main import find_command, main
from mvdiff.cli.options import CommandParser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINER = {"doctor", "fit", "validate", "test", "predict"}


def fenced(text: str) -> list[str]:
    """Return the lines of the shell blocks of a page, those that end in a backslash joined with the next."""
    blocks = re.findall(r"^ *```([\w -]*)\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    shell = [body for language, body in blocks if language in ("", "bash")]
    return [line.strip() for body in shell for line in re.sub(r"\\\n\s*", " ", body).splitlines()]


def typed(lines: Iterable[str]) -> list[list[str]]:
    """Return the arguments of mvdiff, or of train.py behind a launcher, wherever a line runs one."""
    found = []
    for line in lines:
        if re.match(r"(\$ )?(mvdiff|torchrun|fabric|srun) ", line):
            words = shlex.split(line, comments=True)
            starts = [i for i, word in enumerate(words) if word in ("mvdiff", "train.py")]
            found += [words[i + 1 :] for i in starts[:1]]
    return found


INLINE = re.findall(r"`([^`\n]+)`", README)
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = sorted({shlex.join(words) for words in typed([*INLINE, *chain.from_iterable(map(fenced, PAGES))])})


def test_commands_are_found():
    shell = "```\n$ torchrun --n 2 \\\n    train.py fit --config x.yaml  # same\nls\n```\n"
    page = f"{shell}\n```python\nmvdiff x\n```\nmvdiff y\n"
    assert typed([*fenced(page), "mvdiff data check DIR"]) == [["fit", "--config", "x.yaml"], ["data", "check", "DIR"]]
    assert {command.split()[0] for command in COMMANDS} >= {"fit", "test", "data", "generate", "export", "evaluate"}


def test_two_make_targets_do_everything():
    assert {"make quickstart", "make test"} <= set(re.findall(r"make \w+", README))
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, capsys):
    words = shlex.split(command)
    if words[0] in TRAINER:  # LightningCLI reads all of it and stops before building anything
        if "--print_config" not in words:
            words.append("--print_config")
        words = ["pano.yaml" if re.fullmatch(r"runs/pano/.*/config\.yaml", word) else word for word in words]
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0, capsys.readouterr().err
        return
    known = find_command(words)
    assert known is not None
    CommandParser(known).settings(words[len(known.name.split()) :])


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).is_file(), link
