"""Train the two stages with the same command a user types."""

from __future__ import annotations

from pathlib import Path

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
STAGE1_SCRATCH, STAGE1 = "stage 1, from a base without depth", "stage 1, packaged, continued"
SCRATCH, CONTINUED, BEFORE = "from scratch", "packaged, continued", "before"
STAGE1_SCRATCH_LR, STAGE1_LR, SCRATCH_LR, CONTINUED_LR = 4e-4, 1e-5, 1e-3, 5e-5
FRAMES_PER_STEP = 32


def trained_base(settings: DepthSettings, name: str = STAGE1) -> Path:
    """Return the folder of the base that a run of stage 1 writes; stage 2 stands on that of the packaged one."""
    return run_folder(settings, name) / "base"


def stage1_arguments(settings: DepthSettings, name: str) -> list[str]:
    """Return the arguments of `mvdiff` that train a base on single frames: the packaged one, or one without depth."""
    steps, packaged = settings.stage1_steps, name == STAGE1
    chosen = common_arguments(settings, name, steps)
    chosen |= rate_arguments(STAGE1_LR if packaged else STAGE1_SCRATCH_LR, steps)
    chosen |= {
        "model.out": trained_base(settings, name),
        "model.num_validation_samples": 0,
        "data.root": settings.data_root,
        "data.batch_size": min(FRAMES_PER_STEP, settings.rooms - settings.test_rooms),
        "data.val_from": "train",
        "data.num_val": num_validation_rooms(settings),
    }
    if packaged:
        chosen |= {"model.base": settings.base, "model.add_input": "false"}
    return command("fit", STAGE1_CONFIG, chosen)


def stage2_arguments(settings: DepthSettings, name: str, max_steps: int, init: Path | None, lr: float) -> list[str]:
    """Return the arguments of `mvdiff` that train attention and image conditions on stage 1's base.

    Training mixes key frames to generate with frames to interpolate; validation is on key frames. From scratch,
    samples have half as many views and a step twice as many samples: as much work, with as many more timesteps, so
    that a curve of a minute rises; its key frames for validation take half the inference steps. What goes on from
    `init` shows no curve: its loss is taken once, at its end.
    """
    chosen = common_arguments(settings, name, max_steps) | rate_arguments(lr, max_steps)
    num_views, batch_size = settings.num_views, settings.batch_size
    if init is None:
        num_views, batch_size = max(3, num_views // 2), 2 * batch_size
    chosen |= {
        "total_batch_size": batch_size,
        "model.base": trained_base(settings),
        "model.sampling.num_inference_steps": max(1, settings.num_inference_steps // 2),
        "model.sampling.guidance_scale": settings.guidance_scale,
        "model.num_validation_samples": batch_size,
        "data.root": settings.data_root,
        "data.max_val_samples": num_validation_rooms(settings),
        "data.eval_mode": "keyframes",
        "data.num_views": num_views,
        "data.min_frames": min(8, num_views),
        "data.batch_size": batch_size,
        "data.num_val": num_validation_rooms(settings),
    }
    if init is not None:
        chosen |= {
            "model.init_adapter": init,
            "model.num_validation_samples": 0,
            "trainer.val_check_interval": max_steps,
        }
    return command("fit", STAGE2_CONFIG, chosen)


def train_stage1(settings: DepthSettings, run_trainer: RunTrainer, name: str) -> Run:
    """Train a base on single frames; its curve of held-out loss begins before the first step."""
    folder, arguments = run_folder(settings, name), stage1_arguments(settings, name)
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
