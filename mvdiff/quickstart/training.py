"""Train the attention with the same command a user types, and read its curve back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvdiff.quickstart.settings import Settings

CONFIG = "toy/pano.yaml"


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


def fit_arguments(settings: Settings, name: str, max_steps: int, init_adapter: Path | None, lr: float) -> list[str]:
    """Return the arguments of `mvdiff` that train."""
    folder = settings.out / "train" / name
    chosen = {
        "seed_everything": settings.seed,
        "total_batch_size": settings.batch_size,
        "trainer.max_steps": max_steps,
        "trainer.val_check_interval": max(1, max_steps // settings.num_validations),
        "trainer.default_root_dir": folder,
        "trainer.enable_model_summary": "false",
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": folder,
        "trainer.logger.name": "",
        "trainer.logger.version": "",
        "model.seed": settings.seed,
        "model.optimizer.init_args.lr": lr,
        "model.lr_scheduler.init_args.max_lr": lr,
        "model.lr_scheduler.init_args.total_steps": max_steps,
        "model.num_inference_steps": settings.num_inference_steps,
        "model.guidance_scale": settings.guidance_scale,
        "data.root": settings.data_root,
        "data.seed": settings.seed,
        "data.batch_size": settings.batch_size,
        "data.num_val": min(8, max(1, (settings.rooms - settings.test_rooms) // 4)),
    }
    if init_adapter is not None:
        chosen["model.init_adapter"] = init_adapter
    return ["fit", "--config", CONFIG, *(f"--{key}={value}" for key, value in chosen.items())]


def train(
    settings: Settings,
    run_trainer: Callable[[Sequence[str]], int],
    name: str,
    max_steps: int,
    lr: float,
    init_adapter: Path | None = None,
) -> Run:
    """Train for `max_steps` and return the run; a run with the same name is started anew.

    Args:
        settings: The quickstart.
        run_trainer: Runs `mvdiff fit` with the given arguments.
        name: Of the run's folder.
        max_steps: Optimizer steps.
        lr: Highest learning rate.
        init_adapter: Model folder to go on from; None starts from zero outputs.
    """
    folder = settings.out / "train" / name
    metrics = folder / "metrics.csv"
    metrics.unlink(missing_ok=True)
    run_trainer(fit_arguments(settings, name, max_steps, init_adapter, lr))
    return Run(name, folder, read_curves(metrics))


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
