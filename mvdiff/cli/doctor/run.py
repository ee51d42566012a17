"""The run that `mvdiff doctor` looks at: parsed as `mvdiff fit` parses it, built part by part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from mvdiff.cli.doctor.devices import Devices
from mvdiff.cli.doctor.options import add_options
from mvdiff.cli.train import MVDiffCLI

_OF_DISK = ("TensorBoardLogger", "CSVLogger")
"""Loggers that may be built here: others start an experiment on a server when they are."""


class RunToCheck(MVDiffCLI):
    """A run by the arguments of `mvdiff fit`, of which nothing is built before it is asked for.

    Args:
        arguments: Those of the command, without its name.
        scratch: Folder for everything that a fit would write.

    Attributes:
        opened: Parts that checks found to work, of "data", "model" and "trainer".
    """

    def __init__(self, arguments: Sequence[str], scratch: Path) -> None:
        self.scratch = scratch
        self.checkpoint_error: ValueError | None = None
        self.opened: set[str] = set()
        super().__init__(["fit", *arguments])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the command's own options to those of `fit`."""
        super().add_arguments_to_parser(parser)
        add_options(parser)

    def before_instantiate_classes(self) -> None:
        """Prepare as `fit` does, but keep the error of a checkpoint that is none."""
        try:
            super().before_instantiate_classes()
        except ValueError as error:
            self.checkpoint_error = error

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    @property
    def settings(self) -> Namespace:
        """All settings of the run."""
        return self.config[self.subcommand]

    def arguments_of(self, part: str) -> dict[str, Any]:
        """Return the settings of "model" or "data" by name, as plain values."""
        return (self.settings.as_dict().get(part) or {}).get("init_args") or {}

    @cached_property
    def devices(self) -> Devices:
        """Devices that the trainer asks for, and those here."""
        return Devices.of(self.settings.trainer)

    @cached_property
    def data(self) -> LightningDataModule:
        """The data module; raises what its class raises."""
        return self._instantiated("data").data

    @cached_property
    def model(self) -> LightningModule:
        """The module, which writes to no cache of the run; raises what its class raises."""
        return self._instantiated("model").model

    @cached_property
    def trainer_settings(self) -> dict[str, Any]:
        """Arguments of the Trainer with their objects built, except for loggers that would reach for a server."""
        return dict(self._instantiated("trainer").trainer)

    @cached_property
    def planned_trainer(self) -> Trainer:
        """The run's Trainer, with its world size and accumulation; where devices are missing, as many CPU processes."""
        self.config_init = Namespace(**{self.subcommand: Namespace(trainer=self.trainer_settings)})
        self.datamodule = self.data
        if not self.devices.missing:
            return self.instantiate_trainer()
        stand_in = {"accelerator": "cpu", "devices": self.devices.asked, "strategy": "auto", "precision": "32-true"}
        return self.instantiate_trainer(**stand_in)

    def _instantiated(self, part: str) -> Namespace:
        """Build one of "model", "data" and "trainer" and return all settings with it in its place."""
        config = self.config.clone()
        settings = config[self.subcommand]
        for other in {"model", "data"} - {part}:
            settings[other] = None
        if part == "trainer":
            settings.trainer.logger = self._loggers_of_disk(settings.trainer.logger)
        else:
            settings.trainer = Namespace()
        cache = settings.get(f"{part}.init_args.cache") if part == "model" else None
        if isinstance(cache, Namespace) and cache.get("text_only"):
            cache.latents = False  # the text is read from the run's own cache, to which nothing else is written then
        elif isinstance(cache, Namespace) and cache.get("dir"):
            cache.dir = str(self.scratch / "cache")
        return self.parser.instantiate_classes(config)[self.subcommand]

    @staticmethod
    def _loggers_of_disk(loggers: Any) -> Any:
        if isinstance(loggers, bool) or loggers is None:
            return loggers
        listed = loggers if isinstance(loggers, list) else [loggers]
        return [one for one in listed if one.class_path.rpartition(".")[2] in _OF_DISK] or False
