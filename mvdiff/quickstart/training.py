"""Train with the same command a user types, and read its curve back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.models.loading import PACKAGED, packaged_folder
from mvdiff.quickstart.settings import QuickstartSettings, Settings

CONFIG = "toy/pano.yaml"
RunTrainer = Callable[[Sequence[str]], int]
"""Runs `mvdiff fit|validate` with the given arguments."""


@dataclass(frozen=True)
class Run:
    """A finished training: where it is and its curves as (steps, values) by metric."""

    name: str
    folder: Path
    curves: dict[str, tuple[list[int], list[float]]]

    @property
    def model(self) -> Path:
        """The model folder of its best checkpoint."""
        return self.folder / "model"


def run_folder(settings: QuickstartSettings, name: str) -> Path:
    """Return the folder of a run."""
    return settings.out / "train" / name


def common_arguments(settings: QuickstartSettings, name: str, max_steps: int) -> dict[str, Any]:
    """Return what every training sets: its length, where it goes, seeds, and a log that can be read back."""
    folder = run_folder(settings, name)
    return {
        "seed_everything": settings.seed,
        "trainer.max_steps": max_steps,
        "trainer.val_check_interval": max(1, max_steps // settings.num_validations),
        "trainer.default_root_dir": folder,
        "trainer.enable_model_summary": "false",
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": folder,
        "trainer.logger.name": "",
        "trainer.logger.version": "",
        "model.seed": settings.seed,
        "data.seed": settings.seed,
    }


def rate_arguments(lr: float, max_steps: int) -> dict[str, Any]:
    """Return what sets the highest learning rate and the length of its schedule."""
    return {
        "model.optimizer.init_args.lr": lr,
        "model.lr_scheduler.init_args.max_lr": lr,
        "model.lr_scheduler.init_args.total_steps": max_steps,
    }


def num_validation_rooms(settings: QuickstartSettings) -> int:
    """Return how many training rooms are kept for validation: a quarter of them, eight at most."""
    return min(8, max(1, (settings.rooms - settings.test_rooms) // 4))


def command(name: str, config: str, chosen: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `mvdiff` for a run of a config with some settings."""
    return [name, "--config", config, *(f"--{key}={value}" for key, value in chosen.items())]


def run_and_read(folder: Path, run_trainer: RunTrainer, arguments: Sequence[str]) -> Run:
    """Run the trainer and read the curves of the run's folder; a log that is there is replaced."""
    metrics = folder / "metrics.csv"
    metrics.unlink(missing_ok=True)
    run_trainer(arguments)
    return Run(folder.name, folder, read_curves(metrics))


def fit_arguments(
    settings: Settings,
    name: str,
    max_steps: int,
    init_adapter: str | Path | None,
    lr: float,
    config: str = CONFIG,
    base: str | None = None,
) -> list[str]:
    """Return the arguments of `mvdiff` that train attention between the views of panoramas; see `train`."""
    chosen = common_arguments(settings, name, max_steps) | rate_arguments(lr, max_steps)
    chosen |= {
        "total_batch_size": settings.batch_size,
        "model.sampling.num_inference_steps": settings.num_inference_steps,
        "model.sampling.guidance_scale": settings.guidance_scale,
        "data.root": settings.data_root,
        "data.batch_size": settings.batch_size,
        "data.num_val": num_validation_rooms(settings),
    }
    if init_adapter is not None:
        chosen["model.init_adapter"] = init_adapter
    if base is not None:
        chosen["model.base"] = base
    return command("fit", config, chosen)


def train(
    settings: Settings,
    run_trainer: RunTrainer,
    name: str,
    max_steps: int,
    lr: float,
    init_adapter: str | Path | None = None,
    config: str = CONFIG,
    base: str | None = None,
) -> Run:
    """Train for `max_steps` and return the run; a run with the same name is started anew.

    Args:
        settings: The quickstart.
        run_trainer: Runs `mvdiff fit` with the given arguments.
        name: Of the run's folder.
        max_steps: Optimizer steps.
        lr: Highest learning rate.
        init_adapter: Model folder to go on from; None starts from zero outputs.
        config: What is trained.
        base: On which base; None: that of `config`.
    """
    arguments = fit_arguments(settings, name, max_steps, init_adapter, lr, config, base)
    return run_and_read(run_folder(settings, name), run_trainer, arguments)


def validate_fresh(settings: Settings, run_trainer: RunTrainer, config: str = CONFIG, base: str | None = None) -> float:
    """Return the overlap PSNR of a fresh adapter, which is the base's, on the validation captions."""
    arguments = fit_arguments(settings, "before", settings.max_steps, None, 1e-3, config, base)
    run = run_and_read(run_folder(settings, "before"), run_trainer, ["validate", *arguments[1:]])
    return run.curves["val/overlap_psnr"][1][-1]


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
            f"adapter must be a model folder, or one that comes with the package; got {adapter!r}. Name a folder that "
            "`mvdiff fit` wrote."
        )
    return Path(adapter)


def read_curves(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read a CSVLogger's file: for each metric the steps at which it was logged and its values."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]) + 1)
                    values.append(float(value))
    return curves
