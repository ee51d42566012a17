"""Mistakes in options and settings: one readable line, with the name that was probably meant."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise

_PARSER_NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
)
_PLAIN = {
    r'Parser key "([\w.]+)":': r"\1:",
    r"Expected an? <class '(\w+)'>": r"expected \1",
    r"Expected an? typing\.Literal\[(.*?)\]": r"expected one of \1",
    r"\. Got value: ": "; got ",
    r"argument (--\w+): invalid (\w+) value: ": r"\1: expected \2; got ",
}
"""Words of the parser -> those of a command line."""
_UNKNOWN = re.compile(
    r"Option '([\w.]+)' is not accepted|(?:Group '([\w.]+)'|Subcommand '\w+') does not accept option '([\w.]+)'"
    r"|unrecognized arguments: --([\w.-]+)"
)
_NO_VALUE = re.compile(r"argument (?:-\w[,/] ?)?(--[\w.]+)[^:]*: expected (?:one|1|at least one) argument")
_LISTED = re.compile(r"has unknown (\w+); it takes ([\w, ]+)")
_NO_CLASS = re.compile(r'Parser key "([\w.]+)":.*Not a valid subclass of .*Given value: (\{.*\})', re.DOTALL)
_CLASS = re.compile(r"class_path '([\w.]+)'")
_SIGNAL = re.compile(r"is killed by signal: ([\w ]+)")
_OWN_CLASS = re.compile(r"\. Got value: Namespace\(class_path='([\w.]+)'")


def readable(message: str) -> str:
    """Shorten a parser's error to the mistake, without the types it tried and the values it was given.

    >>> print(readable("Parser key model:\\n  Errors:\\n    - Option 'sise' is not accepted\\n  Given value: {}"))
    Parser key model: Option 'sise' is not accepted
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(_PARSER_NOISE))
    for pattern, plain in _PLAIN.items():
        text = re.sub(pattern, plain, text)
    return text


def of_worker(message: str) -> str:
    r"""Return what was raised in a worker of torch's DataLoader, out of the traceback that torch puts in its place.

    The package's own data modules pass errors on as they are (`mvdiff.data.loader`); this is for others.

    >>> of_worker("Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    ...     "  File 'x.py', line 1, in read\nValueError: a.png must be whole:\ncut off")
    'a.png must be whole:\ncut off'
    """
    if "\nOriginal Traceback" not in message:
        return message
    lines = message.rstrip().split("\n")
    frame = max(place for place, line in enumerate(lines) if line.startswith(("  ", "Original")))
    return "\n".join(lines[frame + 1 :]).split(": ", 1)[-1]


def dead_worker(error: BaseException) -> str | None:
    """Explain that a process that reads data died; None for another error.

    >>> print(dead_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ")))
    a process that reads data crashed (Segmentation fault). Set num_workers to 0 to see where
    """
    if not str(error).startswith("DataLoader worker (pid"):
        return None
    chain = " ".join(map(str, (error, error.__cause__, error.__context__)))
    signal = _SIGNAL.search(chain)
    if signal is not None and signal[1] not in ("Killed", "Bus error"):
        return f"a process that reads data crashed ({signal[1]}). Set num_workers to 0 to see where"
    how = f"was killed ({signal[1]})" if signal else "ended unexpectedly"
    return (
        f"a process that reads data {how}, as happens when memory runs out. Lower num_workers, or give the job more "
        "memory; in a container, more shared memory (--shm-size)"
    )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question in brackets with the closest of some names, empty where none is close.

    >>> did_you_mean("--promt", ["--prompt", "--out"])
    ' (did you mean --prompt?)'
    """
    close = get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def unknown_setting(message: str, names_of: Callable[[str | None], Iterable[str]]) -> str | None:
    """Explain an error about an unknown setting of a class; None where a message is about something else.

    Args:
        message: A parser's error, or that of `mvdiff.class_paths.resolve_settings`.
        names_of: Gives the dotted settings of a class by its path; of None, those of the command.

    >>> message = "Problem with given class_path 'a.B': Group 'sampling' does not accept option 'etta'"
    >>> unknown_setting(message, {"a.B": ["seed", "sampling.eta"]}.get)
    'B has no setting sampling.etta (did you mean sampling.eta?)'
    >>> unknown_setting("unrecognized arguments: --trainer.max-epochs", {None: ["trainer.max_epochs"]}.get)
    'there is no setting trainer.max-epochs (did you mean trainer.max_epochs?)'
    """
    listed = _LISTED.search(message)
    if listed is not None:
        close = did_you_mean(listed[1], listed[2].split(", "))
        return f"{message[: listed.end(1)]}{close}{message[listed.end(1) :]}"
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        return _beside_init_args(message)
    own = _OWN_CLASS.match(message[unknown.end() :])
    classes = [own[1]] if own else _CLASS.findall(message[: unknown.start()])
    names = [*names_of(classes[-1] if classes else None)] + ["class_path", "init_args"] * bool(classes)
    name = ".".join(filter(None, unknown.groups()))
    owner = f"{classes[-1].rpartition('.')[2]} has" if classes else "there is"
    return f"{owner} no setting {name}{_meant(name.split('.'), [known.split('.') for known in names])}"


def _beside_init_args(message: str) -> str | None:
    """Explain an error about a mapping with class_path and names that do not belong beside it."""
    mapping = _NO_CLASS.search(message)
    try:
        value = literal_eval(mapping[2]) if mapping else {}
    except ValueError:  # it holds more than plain values
        return None
    wrong = [name for name in value if name not in ("class_path", "init_args", "dict_kwargs")]
    if not wrong or "class_path" not in value:
        return None
    return f"there is no setting {mapping[1]}.{wrong[0]}{did_you_mean(wrong[0], ['class_path', 'init_args'])}"


def _meant(path: list[str], known: list[list[str]]) -> str:
    """Ask for the closest name at the first part of a dotted name that is not known; hyphens count as underscores."""
    path = [part.replace("-", "_") for part in path]
    for depth, part in enumerate(path):
        beside = {one[depth] for one in known if one[:depth] == path[:depth] and len(one) > depth}
        if part not in beside:
            return did_you_mean(".".join(path[: depth + 1]), [".".join([*path[:depth], one]) for one in beside])
    return f" (did you mean {'.'.join(path)}?)"  # spelt with hyphens


def unknown_option(message: str, options: Iterable[str], renamed: Mapping[str, str]) -> str | None:
    """Explain a parser's error about an unknown option; None where it is about something else."""
    unknown = re.match(r"unrecognized arguments: (\S+)", message)
    if unknown is None:
        return None
    name = unknown[1].split("=")[0]
    if name in renamed:
        return f"{name} is now {renamed[name]}"
    if not name.startswith("-"):
        return f"unexpected argument {name!r}"
    return f"there is no option {name}{did_you_mean(name, options)}"


def missing_value(message: str, words: Sequence[str]) -> str | None:
    """Explain a parser's error about an option without a value; None where it is about something else.

    >>> missing_value("argument --prompt: expected 1 argument", ["--prompt", "-dash", "--out", "x"])
    '--prompt must have a value; got -dash, which looks like an option. If it is the value, write --prompt=-dash'
    >>> missing_value("argument --prompt: expected 1 argument", ["--out", "x", "--prompt"])
    '--prompt must have a value; got nothing'
    >>> missing_value("argument --model: expected 1 argument", ["fit", "--model.base", "-b"])
    '--model.base must have a value; got -b, which looks like an option. If it is the value, write --model.base=-b'
    """
    found = _NO_VALUE.match(message)
    if found is None:
        return None
    begins = f"{found[1]}."  # the parser says --model for --model.base
    without = (
        (word, after)
        for word, after in pairwise([*words, ""])
        if f"{word}.".startswith(begins) and (not after or after.startswith("-"))
    )
    name, after = next(without, (found[1], ""))
    if not after:
        return f"{name} must have a value; got nothing"
    return (
        f"{name} must have a value; got {after}, which looks like an option. If it is the value, write {name}={after}"
    )
