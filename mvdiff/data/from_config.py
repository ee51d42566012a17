"""Build the data module of a run's YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.files.paths import expanded_values
from mvdiff.files.text import read_yaml_mapping
from mvdiff.run_files import config_layers


def data_from_config(configs: Sequence[str | Path]) -> MultiViewDataModule:
    """Build the data module from the `data` sections of YAML files.

    Later files override earlier ones, as in `mvdiff fit`; packaged ones are found by name.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: No file has a `data` section, or it is invalid.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiViewDataModule, "data", fail_untyped=False, required=True)  # as LightningCLI
    names = ", ".join(str(path) for path in configs)
    parsed = None
    try:
        for path in config_layers(configs):
            section = read_yaml_mapping(path).get("data")
            if section is not None:
                parsed = parser.parse_object({"data": expanded_values(section)}, namespace=parsed)
        if parsed is None:
            raise ValueError("none")
        return parser.instantiate(parsed).data
    except (ArgumentError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config must have a valid data section; got {reason}, in {names}.") from error
