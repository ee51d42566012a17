"""Train the two stages with the same command a user types."""

from __future__ import annotations

from pathlib import Path

from mvdiff.models.loading import PACKAGED, packaged_folder
from mvdiff.quickstart.depth.settings import DepthSettings
from mvdiff.quickstart.training import (
    Run,
    RunTrainer,
    command,
    common_arguments,
    num_validation_rooms,
    rate_arguments,
    run_and_read,
    run_folder,
)

STAGE1_CONFIG, STAGE2_CONFIG = "toy/depth_base.yaml", "toy/depth.yaml"
STAGE1, SCRATCH, CONTINUED, BEFORE = "stage 1", "from scratch", "packaged, continued", "before"
STAGE1_LR, SCRATCH_LR, CONTINUED_LR = 1e-5, 1e-3, 2e-4
FRAMES_PER_STEP = 32


def trained_base(settings: DepthSettings) -> Path:
    """Return the folder of the base that stage 1 writes."""
    return run_folder(settings, STAGE1) / "base"


def stage1_arguments(settings: DepthSettings) -> list[str]:
    """Return the arguments of `mvdiff` that train the base further on single frames."""
    steps = settings.stage1_steps
    chosen = common_arguments(settings, STAGE1, steps) | rate_arguments(STAGE1_LR, steps)
    chosen |= {
        "model.base": settings.base,
        "model.out": trained_base(settings),
        "model.add_depth_input": "false",
        "model.num_validation_samples": 0,
        "data.root": settings.data_root,
        "data.batch_size": min(FRAMES_PER_STEP, settings.rooms - settings.test_rooms),
        "data.val_from": "train",
        "data.num_val": num_validation_rooms(settings),
    }
    return command("fit", STAGE1_CONFIG, chosen)


def stage2_arguments(settings: DepthSettings, name: str, max_steps: int, init: Path | None, lr: float) -> list[str]:
    """Return the arguments of `mvdiff` that train attention and image conditions on stage 1's base.

    Training mixes key frames to generate with frames to interpolate; validation is on key frames.
    """
    chosen = common_arguments(settings, name, max_steps) | rate_arguments(lr, max_steps)
    chosen |= {
        "total_batch_size": settings.batch_size,
        "model.base": trained_base(settings),
        "model.num_inference_steps": settings.num_inference_steps,
        "model.guidance_scale": settings.guidance_scale,
        "data.root": settings.data_root,
        "data.eval_mode": "keyframes",
        "data.num_views": settings.num_views,
        "data.batch_size": settings.batch_size,
        "data.num_val": num_validation_rooms(settings),
    }
    if init is not None:
        chosen["model.init_adapter"] = init
    return command("fit", STAGE2_CONFIG, chosen)


def train_stage1(settings: DepthSettings, run_trainer: RunTrainer) -> Run:
    """Train the base further; its curve of held-out loss begins before the first step."""
    folder, arguments = run_folder(settings, STAGE1), stage1_arguments(settings)
    before = run_and_read(folder, run_trainer, ["validate", *arguments[1:]]).curves["val/loss"][1][-1]
    run = run_and_read(folder, run_trainer, arguments)
    steps, losses = run.curves["val/loss"]
    run.curves["val/loss"] = ([0, *steps], [before, *losses])
    return run


def train_stage2(
    settings: DepthSettings, run_trainer: RunTrainer, name: str, max_steps: int, lr: float, init: Path | None = None
) -> Run:
    """Train attention and image conditions; a run with the same name is started anew.

    Args:
        settings: The quickstart.
        run_trainer: Runs `mvdiff fit` with the given arguments.
        name: Of the run's folder.
        max_steps: Optimizer steps.
        lr: Highest learning rate.
        init: Model folder to go on from; None starts from zero outputs.
    """
    arguments = stage2_arguments(settings, name, max_steps, init, lr)
    return run_and_read(run_folder(settings, name), run_trainer, arguments)


def validate_fresh(settings: DepthSettings, run_trainer: RunTrainer) -> dict[str, float]:
    """Return the held-out loss and overlap PSNR of a fresh adapter, which are those of stage 1's base."""
    arguments = stage2_arguments(settings, BEFORE, settings.max_steps, None, SCRATCH_LR)
    run = run_and_read(run_folder(settings, BEFORE), run_trainer, ["validate", *arguments[1:]])
    return {metric: run.curves[metric][1][-1] for metric in ("val/loss", "val/overlap_psnr")}


def packaged_adapter(settings: DepthSettings) -> Path | None:
    """Return the model folder to go on from, None where the settings name none.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not settings.adapter:
        return None
    if settings.adapter.startswith(PACKAGED):
        return packaged_folder(settings.adapter, "adapter", "mvdiff.json")
    if not (Path(settings.adapter) / "mvdiff.json").is_file():
        raise FileNotFoundError(
            f'adapter must be a model folder or "mvdiff://toy-depth"; got {settings.adapter!r}. Name a folder that '
            "`mvdiff fit --config toy/depth.yaml` wrote."
        )
    return Path(settings.adapter)
