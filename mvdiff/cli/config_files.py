"""Put the files of runs in the place of their names on the command line."""

from collections.abc import Sequence
from pathlib import Path

from mvdiff.run_files import EXTENDS, config_layers


def open_data(names: Sequence[str | Path], split: str):
    """Open a split ("train", "val", "test") of the data section of configs, later ones on top.

    Raises:
        FileNotFoundError: A config does not exist.
        ValueError: No data section can be built, or a setting has an old name.
    """
    from mvdiff.cli.renamed import check_names
    from mvdiff.eval.sources import source_from_config

    check_names([word for path in config_layers(names) for word in ("--config", str(path))])
    return source_from_config(names, split)


def has_config(arguments: Sequence[str]) -> bool:
    """Return True if command-line arguments name a config."""
    return any(argument.partition("=")[0] in ("--config", "-c") for argument in arguments)


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with a word `--config` before each path of a file, those that they extend first.

    A config may be given as `--config X`, `--config=X`, `-c X`, `-c=X` or `-cX`.

    Raises:
        FileNotFoundError: A config does not exist.
        ValueError: `extends` stands on the command line, or is wrong in a file.

    >>> with_config_paths(["fit", "-cpano.yaml"])[-1].endswith("configs/pano.yaml")
    True
    """
    resolved: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name == f"--{EXTENDS}":
            raise ValueError(
                f"{EXTENDS} is for YAML files only; got {word} on the command line. Repeat --config instead."
            )
        if word.startswith("-c"):
            name, equals, value = "--config", word[2:], word[2:].removeprefix("=")
        if name == "--config":
            value = value if equals else next(words, None)
            paths = [name] if value is None else [part for path in config_layers([value]) for part in (name, str(path))]
            resolved += paths  # a name without a value is left to the parser
        else:
            resolved.append(word)
    return resolved
