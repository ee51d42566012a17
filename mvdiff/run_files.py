"""YAML files of runs: where the packaged ones are, and which files one is made of."""

from collections.abc import Iterable
from pathlib import Path

from mvdiff.files.paths import expanded
from mvdiff.files.text import read_yaml_mapping

EXTENDS = "extends"
"""Key of a YAML file that names the file below it."""


def configs_folder() -> Path:
    """Return the folder of the packaged configs: `mvdiff/configs` in a wheel, `configs` in a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def config_path(name: str | Path) -> Path:
    """Return the path of a config given as a file, as `configs/NAME`, or as the NAME of a packaged one.

    A file that exists wins over a packaged one of the same name.

    Raises:
        FileNotFoundError: Neither exists; the text lists the packaged ones.

    >>> config_path("pano.yaml").is_file()
    True
    """
    return _found(name, "--config")


def config_layers(names: Iterable[str | Path]) -> list[Path]:
    """Return the files of configs in the order in which they apply: before each the one that it extends.

    `extends: FILE` in a YAML file names a file beside it, or a config as `config_path` finds it.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is no YAML of settings, or `extends` is no name or leads back to a file itself.

    >>> [path.name for path in config_layers(["pano.yaml"])]
    ['run.yaml', 'paper.yaml', 'pano.yaml']
    """
    return [path for name in names for path in _with_extended(config_path(name))]


def _with_extended(path: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    chain = (*above, path)
    if path.resolve() in [other.resolve() for other in above]:
        raise ValueError(f"extends must not lead back to a file itself; got {' -> '.join(map(str, chain))}.")
    name = _extended(path)
    if name is None:
        return [path]
    if not isinstance(name, str):
        raise ValueError(f"extends must be the name of one YAML file; got {name!r}, in {path}.")
    beside = path.parent / expanded(name)
    is_other = beside.is_file() and beside.resolve() != path.resolve()
    return [*_with_extended(beside if is_other else _found(name, f"extends (in {path})"), chain), path]


def _extended(path: Path) -> object:
    return read_yaml_mapping(path).get(EXTENDS)


def _found(name: str | Path, option: str) -> Path:
    path = expanded(name)
    if path.is_file():
        return path
    folder = configs_folder()
    if not path.is_absolute():
        parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
        packaged = folder.joinpath(*parts)
        if packaged.is_file():
            return packaged
    known = ", ".join(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")))
    raise FileNotFoundError(f"{option} must be a YAML file or a packaged config ({known}); got {str(name)!r}.")
