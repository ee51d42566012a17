"""Make the Lightning Trainer follow process launchers.

The Trainer ignores the LT_* variables of `fabric run` and the world size of torchrun, so each process would silently
train alone on all of the data. `launcher_settings` converts those variables to Trainer settings, and `check_world_size`
rejects a Trainer that does not span all launched processes.
"""

from collections.abc import Mapping, Sequence

_FABRIC = {"accelerator": "LT_ACCELERATOR", "strategy": "LT_STRATEGY", "precision": "LT_PRECISION"}


def launcher_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the Trainer settings that a launcher's environment implies, by flag name (own derivation).

    >>> launcher_settings({"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3"})
    {'devices': '2', 'num_nodes': '3'}
    >>> launcher_settings({})
    {}
    """
    settings = {}
    if environ.get("LT_CLI_USED") == "1":
        settings = {name: environ[variable] for name, variable in _FABRIC.items() if variable in environ}
    if "LOCAL_WORLD_SIZE" in environ and "GROUP_WORLD_SIZE" in environ:  # torchrun, which `fabric run` calls too
        settings["devices"] = environ["LOCAL_WORLD_SIZE"]
        settings["num_nodes"] = environ["GROUP_WORLD_SIZE"]
        listed = environ.get("LT_DEVICES", "")
        if environ.get("LT_CLI_USED") == "1" and "," in listed:  # which devices, not only how many
            settings["devices"] = listed
    return settings


def with_launcher_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return command-line arguments with the launcher's settings appended; explicit flags take precedence.

    The launcher's settings come after every `--config` and override YAML files, since a launcher starts one run and a
    file describes many.

    >>> with_launcher_settings(["fit"], {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"})
    ['fit', '--trainer.devices=2', '--trainer.num_nodes=1']
    """
    given = {argument.split("=", 1)[0] for argument in arguments}
    added = [
        f"--trainer.{name}={value}"
        for name, value in launcher_settings(environ).items()
        if f"--trainer.{name}" not in given
    ]
    return [*arguments, *added]


def check_world_size(world_size: int, environ: Mapping[str, str]) -> None:
    """Raise ValueError if the Trainer's world size is not the number of launched processes (WORLD_SIZE)."""
    launched = environ.get("WORLD_SIZE")
    if launched is not None and int(launched) != world_size:
        raise ValueError(
            f"trainer.devices x trainer.num_nodes must be the number of launched processes, {launched} (WORLD_SIZE); "
            f"got {world_size}. Leave out --trainer.devices and --trainer.num_nodes."
        )
