"""Callbacks and helpers for the Trainer: write the model folder after fit, log images to any logger."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mvdiff.eval.processes import gather_objects
from mvdiff.files.writing import write_whole
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY, read_checkpoint
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import check_new_model_folder
from mvdiff.samples import to_uint8
from mvdiff.samples.pixels import png_bytes
from mvdiff.training.run_folder import run_folder


class SaveModelFolder(Callback):
    """Write the best checkpoint as a model folder when fit ends, or the last weights if no metric is monitored.

    The best checkpoint is chosen over the whole run, across resumes; `ModelCheckpoint` alone drops its scores when its
    folder changes, as with each new version of a run.

    Args:
        dirpath: Model folder to write; None: `model` in the run's folder.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder that cannot take a model, before training; raises as `check_new_model_folder`."""
        if stage == "fit" and self.dirpath is not None:
            check_new_model_folder(self.dirpath, overwrite=True)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the scores of the resumed run, see `keep_scores`."""
        keep_scores(trainer, checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the model folder on the first rank; `fast_dev_run` writes none."""
        if trainer.fast_dev_run:
            return
        self.folder = Path(self.dirpath or Path(run_folder(trainer)) / "model")
        best = best_weights(trainer) if trainer.is_global_zero else (None, None)
        if trainer.strategy.broadcast(best[0] is None) or trainer.is_global_zero:
            pl_module.save_model_folder(self.folder, *best)


def keep_scores(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Pass the scores of a resumed run to the `ModelCheckpoint` callbacks of the new run, before they are restored.

    They drop what is theirs, with a warning, where the folder is another; each run has one of its own.
    """
    for callback in trainer.checkpoint_callbacks:
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if state and isinstance(callback, ModelCheckpoint):
            scores = _scored_files(state["best_k_models"], callback.mode) if callback.monitor is not None else {}
            state |= scores | {"dirpath": callback.dirpath}


def _scored_files(scores: dict[str, Tensor], mode: str) -> dict[str, Any]:
    """Return the score-dependent state of a ModelCheckpoint, for the files that still exist."""
    scores = {path: score for path, score in scores.items() if Path(path).is_file()}
    ranked = sorted(scores, key=lambda path: float(scores[path]), reverse=mode == "max")
    return {
        "best_k_models": scores,
        "best_model_path": ranked[0] if ranked else "",
        "best_model_score": scores[ranked[0]] if ranked else None,
        "kth_best_model_path": ranked[-1] if ranked else "",
    }


def best_weights(trainer: Trainer) -> tuple[dict[str, Tensor] | None, TrainingRecord | None]:
    """Return the weights of the best checkpoint by the first monitored metric, and the record of their training.

    Both are None if no metric is monitored.
    """
    for callback in trainer.checkpoint_callbacks:
        path, monitor = getattr(callback, "best_model_path", ""), getattr(callback, "monitor", None)
        if monitor and Path(path).is_file():
            checkpoint = read_checkpoint(path)
            described = checkpoint.get(CHECKPOINT_KEY, {}).get("info", {}).get("training")
            scores = {monitor: float(callback.best_model_score)}
            record = described and TrainingRecord(**described | {"scores": scores, "measured": "in validation"})
            return checkpoint["state_dict"], record
    return None, None


def gather(value: Any) -> list[Any]:
    """Return the list of all ranks' values on every rank; all ranks must call this."""
    return gather_objects(value, torch.distributed.is_available() and torch.distributed.is_initialized())


def image_grid(rows: list[Tensor]) -> np.ndarray:
    """Arrange samples [V, 3, H, W] in [-1, 1] as rows of views: [rows * H, V * W, 3] uint8."""
    strips = [to_uint8(views).permute(2, 0, 3, 1).flatten(1, 2) for views in rows]
    width = max(strip.shape[1] for strip in strips)
    strips = [torch.nn.functional.pad(strip, (0, 0, 0, width - strip.shape[1])) for strip in strips]
    return torch.cat(strips).cpu().numpy()


def log_image(trainer: Trainer, tag: str, image: np.ndarray, folder: str | Path) -> None:
    """Log an image [H, W, 3] uint8 to every logger that supports images, on the first rank.

    If no logger does, write it to `images/<tag>_<step>.png` in `folder`. With `fast_dev_run` nothing is written.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return
    taken = False
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):  # Weights & Biases and others with Lightning's image interface
            logger.log_image(tag, [image], step=trainer.global_step)
            taken = True
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # TensorBoard
            logger.experiment.add_image(tag, image, trainer.global_step, dataformats="HWC")
            taken = True
    if not taken:
        path = Path(folder) / "images" / f"{tag.replace('/', '_')}_{trainer.global_step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, png_bytes(image))
