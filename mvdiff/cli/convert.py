"""`mvdiff convert`: checkpoints of the 2023 release become model folders, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvdiff.cli.command import Command, done, typed
from mvdiff.cli.export import next_of_model

SUMMARY = "checkpoints of the 2023 release to model folders, and back (docs/checkpoints.md)"


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """Checkpoint and model folder."""

    checkpoint: Path = field(kw_only=False)
    """a .ckpt file of the 2023 release"""
    task: Literal["panorama", "outpaint", "depth", "depth-single-view"]
    """task of the checkpoint; depth-single-view (stage 1 of depth) writes a base instead of a model folder"""
    out: Path
    """the model folder (or base) to write"""
    base: str | None = None
    """folder or hub id of the base that the model was trained on (default: the paper's)"""
    revision: str | None = None
    """branch, tag or commit of --base, if it is a hub id"""
    save_base: Path | None = None
    """new folder for the base weights in the checkpoint, which the model then uses (default: not written; the weights
    must equal those of --base)"""
    height: int | None = None
    """height of the views in pixels, a multiple of the UNet's stride in pixels, which is 64 for Stable Diffusion
    (default: 512; depth: 192)"""
    width: int | None = None
    """width of the views in pixels, a multiple of the same stride (default: 512; depth: 256)"""
    text_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """precision of the text encoder (default: float16; depth: float32, as in the 2023 release)"""
    overwrite: bool = False
    """replace an existing model folder (a base is never replaced)"""


@dataclass(frozen=True, kw_only=True)
class ToUpstreamOptions:
    """Model folder and checkpoint."""

    model: str = field(kw_only=False)
    """the model folder"""
    out: Path
    """the .ckpt file to write"""
    with_base: bool = False
    """also write the base into the file, like the files of the 2023 release"""
    base: str | None = None
    """folder or hub id of the base for --with_base, in place of the one named in the model folder; must have the same
    weights"""
    overwrite: bool = False
    """replace an existing file"""


def from_upstream(options: UpstreamOptions) -> int:
    """Convert a published checkpoint; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import quiet_libraries
    from mvdiff.interop.conversion import SINGLE_VIEW, convert_checkpoint, convert_single_view

    quiet_libraries()
    check_folder(options.out)
    if options.save_base is not None:
        check_folder(options.save_base, "--save_base")
    out, base, revision = options.out, options.base, options.revision
    if options.task == SINGLE_VIEW:
        wrong = [name for name in ("save_base", "height", "width", "text_dtype", "overwrite") if getattr(options, name)]
        if wrong:
            raise ValueError(f"--{wrong[0]} must be left out with --task {SINGLE_VIEW}, which writes a base to --out.")
        converted = convert_single_view(options.checkpoint, out, base, revision)
        summary = f"{out}: a base with the file's {', '.join(converted.base_parts)}"
        following = typed(
            "mvdiff", "convert", "upstream", "depth.ckpt", "--task=depth", "--base", out, "--out", "model"
        )
    else:
        converted = convert_checkpoint(
            *(options.checkpoint, options.task, out, base),
            *(revision, options.save_base, options.height, options.width, options.text_dtype, options.overwrite),
        )
        parts = ", ".join(converted.base_parts)
        state = (
            f"{parts} written to {options.save_base}" if converted.saved_base else f"{parts} equal to those of the base"
        )
        print(f"the file's base: {state if parts else 'none in it'}")
        size = f"{converted.num_weights} weights, {converted.num_parameters:,} parameters"
        summary = f"{out}: {converted.info.title}, {size}"
        following = next_of_model(out, converted.info.task.name)
    content = converted.content
    print(f"left out: {', '.join(content.entries) or 'nothing'}")
    if content.ignored:
        print(f"{len(content.ignored)} foreign names, none of them loaded: {', '.join(content.ignored)}")
    done(summary, following)
    return 0


def to_upstream(options: ToUpstreamOptions) -> int:
    """Convert a model folder; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import quiet_libraries
    from mvdiff.interop.conversion import export_to_upstream

    quiet_libraries()
    check_folder(options.out.parent)
    state = export_to_upstream(options.model, options.out, options.with_base, options.base, options.overwrite)
    following = "load it with the code of the 2023 release"
    done(f"{options.out}: {len(state)} weights under the names of the 2023 release", following)
    return 0


COMMANDS = (
    Command(
        name="convert upstream",
        summary="convert a checkpoint of the 2023 release to a model folder",
        description="Read a checkpoint of the 2023 release, without running any code in it, and write a model folder "
        "to --out. Entries other than weights are ignored and listed.",
        example="mvdiff convert upstream pano.ckpt --task panorama --out model",
        settings=(UpstreamOptions,),
        run=from_upstream,
    ),
    Command(
        name="convert to-upstream",
        summary="convert a model folder that came from `convert upstream` back to a checkpoint",
        description="Convert a model folder that `mvdiff convert upstream` wrote, or a model finetuned from one, to a "
        "checkpoint with the weight names of the 2023 release, and write it to --out.",
        example="mvdiff convert to-upstream model --out pano.ckpt",
        settings=(ToUpstreamOptions,),
        run=to_upstream,
    ),
)
