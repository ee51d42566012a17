"""`mvdiff export CKPT --out DIR`: a training checkpoint becomes a model folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.cli.command import Command, done, typed


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Checkpoint and model folder."""

    checkpoint: Path = field(kw_only=False)
    """a checkpoint that `mvdiff fit` wrote"""
    out: Path
    """the model folder to write"""
    no_ema: bool = False
    """export the last weights instead of their moving average (EMA)"""
    overwrite: bool = False
    """replace an existing model folder"""
    results: Path | None = None
    """results.json of mvdiff test, whose scores go into the model card"""
    plugin: list[str] | None = None
    """Python package from which the checkpoint may load classes; its code is executed; repeat for several"""


def run(options: ExportOptions) -> int:
    """Export; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.files.writing import check_apart
    from mvdiff.pipelines.checkpoint import export_checkpoint

    check_apart("--out", options.out, {"CHECKPOINT": options.checkpoint, "--results": options.results}, around=False)
    check_folder(options.out)
    info = export_checkpoint(options.checkpoint, options.out, not options.no_ema, options.results, options.overwrite)
    done(f"{options.out}: {info.title}", next_of_model(options.out, info.task.name, info.base.id))
    return 0


def next_of_model(folder: str | Path, task: str, base: str | None = None) -> str:
    """Return the command that generates with a model folder of a task, with what the packaged toy bases need."""
    toy = base is not None and base.startswith("mvdiff://")
    inputs = {
        "panorama": ("panorama", "--prompt", "a red sofa, mint walls, wood floor" if toy else "a kitchen"),
        "outpaint": ("outpaint", "--image", "photo.jpg", "--prompt", "gray walls, wood floor" if toy else "a kitchen"),
        "depth": ("depth", "--scene", "SCENE"),
    }
    task, *given = inputs.get(task, ("dataset", "--config", "run.yaml"))
    guidance = ("--guidance_scale", "2") if toy else ()
    return typed("mvdiff", "generate", task, "--model", folder, *given, *guidance, "--out", "out")


COMMANDS = (
    Command(
        name="export",
        summary="turn a training checkpoint into a model folder",
        description="Write the trained weights of a checkpoint to --out as a model folder: adapter, scheduler, cameras "
        "of the views, prompt prefix and a model card. The base's weights are not copied, only its name.",
        example="mvdiff export runs/pano/version_0/checkpoints/last.ckpt --out model",
        settings=(ExportOptions,),
        run=run,
    ),
)
