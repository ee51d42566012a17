"""Find the configuration files that come with the package, from a checkout or an installed wheel."""

from collections.abc import Sequence
from pathlib import Path


def configs_folder() -> Path:
    """Return the folder of the packaged configs: `mvdiff/configs` in a wheel, `configs` in a checkout."""
    package = Path(__file__).resolve().parent.parent
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
    path = Path(name)
    if path.is_file():
        return path
    folder = configs_folder()
    if not path.is_absolute():
        parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
        packaged = folder.joinpath(*parts)
        if packaged.is_file():
            return packaged
    known = ", ".join(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")))
    raise FileNotFoundError(f"--config must be a YAML file or a packaged config ({known}); got {str(name)!r}.")


def open_data(names: Sequence[str | Path], split: str):
    """Open a split ("train", "val", "test") of the data section of configs (see `config_path`), later ones on top.

    Raises:
        FileNotFoundError: A config does not exist.
        ValueError: No data section can be built, or a setting has an old name.
    """
    from mvdiff.cli.renamed import check_names
    from mvdiff.eval.sources import source_from_config

    paths = [str(config_path(name)) for name in names]
    check_names([word for path in paths for word in ("--config", path)])
    return source_from_config(paths, split)


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments whose `--config` / `-c` values are paths of existing files.

    >>> with_config_paths(["fit", "--config", "pano.yaml"])[2].endswith("configs/pano.yaml")
    True
    """
    resolved: list[str] = []
    for argument in arguments:
        if resolved and resolved[-1] in ("--config", "-c"):
            argument = str(config_path(argument))
        elif argument.startswith("--config="):
            argument = f"--config={config_path(argument.removeprefix('--config='))}"
        resolved.append(argument)
    return resolved
