"""Put the files of runs in the place of their names on the command line."""

from collections.abc import Sequence
from pathlib import Path

from mvdiff.run_files import config_layers


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
    """Return command-line arguments whose `--config` / `-c` values are paths of files, those that they extend first.

    >>> with_config_paths(["fit", "--config", "pano.yaml"])[-1].endswith("configs/pano.yaml")
    True
    """
    resolved: list[str] = []
    for argument in arguments:
        if resolved and resolved[-1] in ("--config", "-c"):
            option = resolved.pop()
            resolved += [word for path in config_layers([argument]) for word in (option, str(path))]
        elif argument.startswith("--config="):
            resolved += [f"--config={path}" for path in config_layers([argument.removeprefix("--config=")])]
        else:
            resolved.append(argument)
    return resolved
