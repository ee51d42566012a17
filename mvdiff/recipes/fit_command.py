"""Trainings of a recipe: the `mvdiff fit` that a user types, and its curves, read back from its log."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mvdiff.files.text import read_lines
from mvdiff.models.loading import PACKAGED, packaged_folder
from mvdiff.recipes.settings import RecipeSettings

RunTrainer = Callable[[Sequence[str]], object]
"""Runs `mvdiff` with the given arguments, the first of which is `fit` or `validate`."""
Curves = dict[str, tuple[list[int], list[float]]]
"""By metric: optimizer steps, and the values logged there."""


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        name: Name of its folder.
        folder: The folder; `model/` in it is the model of the best checkpoint.
        curves: Logged values by metric.
    """

    name: str
    folder: Path
    curves: Curves

    def last(self, metric: str) -> float:
        """Return the last value of a curve."""
        return self.curves[metric][1][-1]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One call of `mvdiff fit` on a packaged config, or of `mvdiff validate`.

    Attributes:
        name: Name of the run; its folder is `train/<name>`, and the log and settings that lie there are replaced.
        config: YAML.
        max_steps: Optimizer steps.
        lr: Highest learning rate.
        options: Further settings, by dotted key.
        command: "validate" trains nothing: a fresh adapter is the base.
        from_step_0: Begin the curve of `val/loss` before the first step.
    """

    name: str
    config: str
    max_steps: int
    lr: float
    options: Mapping[str, Any]
    command: Literal["fit", "validate"] = "fit"
    from_step_0: bool = False

    def arguments(self, settings: RecipeSettings) -> list[str]:
        """Return the arguments of `mvdiff`: length, rate, seeds, and a log that can be read back."""
        folder = run_folder(settings, self.name)
        chosen = {
            "seed_everything": settings.seed,
            "trainer.max_steps": self.max_steps,
            "trainer.precision": settings.precision,
            "trainer.val_check_interval": max(1, self.max_steps // settings.num_validations),
            "trainer.default_root_dir": folder,
            "trainer.enable_model_summary": "false",
            "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
            "trainer.logger.save_dir": folder,
            "trainer.logger.name": "",
            "trainer.logger.version": "",
            "model.seed": settings.seed,
            "model.optimizer.init_args.lr": self.lr,
            "model.lr_scheduler.init_args.max_lr": self.lr,
            "data.seed": settings.seed,
            "data.num_val": settings.num_validation_rooms,
            **self.options,
        }
        return [self.command, "--config", self.config, *(f"--{key}={value}" for key, value in chosen.items())]

    def run(self, settings: RecipeSettings, run_trainer: RunTrainer) -> Run:
        """Train, and read the curves back."""
        before = (
            replace(self, command="validate", from_step_0=False).run(settings, run_trainer)
            if self.from_step_0
            else None
        )
        folder = run_folder(settings, self.name)
        log = folder / "metrics.csv"
        for path in (log, *folder.glob("config*.yaml")):
            path.unlink(missing_ok=True)
        run_trainer(self.arguments(settings))
        run = Run(self.name, folder, read_curves(log))
        if before is not None:
            steps, losses = run.curves["val/loss"]
            run.curves["val/loss"] = ([0, *steps], [before.last("val/loss"), *losses])
        return run


def run_folder(settings: RecipeSettings, name: str) -> Path:
    """Return the folder of a run."""
    return settings.out / "train" / name


def adapter_folder(adapter: str) -> Path | None:
    """Return the model folder whose attention is trained further, None where the setting is "".

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not adapter:
        return None
    if adapter.startswith(PACKAGED):
        return packaged_folder(adapter, "adapter", "mvdiff.json")
    if not (Path(adapter) / "mvdiff.json").is_file():
        raise FileNotFoundError(
            f"init_adapter must be a model folder, or one that comes with the package; got {adapter!r}. Name a folder "
            "that `mvdiff fit` wrote."
        )
    return Path(adapter)


def read_curves(path: Path) -> Curves:
    """Read the log of Lightning's CSVLogger; raise ValueError for another file."""
    curves: Curves = {}
    try:
        for row in csv.DictReader(read_lines(path)):
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]) + 1)
                    values.append(float(value))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} must be a log of Lightning's CSVLogger; got {error!r}.") from error
    return curves
