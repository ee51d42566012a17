"""The last line of a command's output: what it wrote, and what to type next."""

import shlex

from mvdiff.cli.main import find_command
from mvdiff.cli.options import CommandParser


def next_commands(output: str) -> list[str]:
    """Return the names of the commands that the last line names, after parsing each by its own parser."""
    names = []
    last = output.rstrip().rsplit("\n", 1)[-1]
    assert ". Next: " in last, last
    for line in last.split(". Next: ")[1].split(", or "):
        program, *words = shlex.split(line, comments=False)
        if program != "mvdiff":
            names.append(program)
            continue
        command = find_command(words)
        if command.settings is not None:
            CommandParser(command).settings(words[len(command.name.split()) :])
        names.append(command.name)
    return names
