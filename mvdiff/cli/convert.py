"""`mvdiff convert`: published checkpoints of upstream become model folders, and the way back."""

import argparse
from pathlib import Path

TASKS = ("panorama", "outpainting", "depth", "depth-single-view")


def add_parser(subparsers) -> None:
    """Add the `convert` command."""
    parser = subparsers.add_parser(
        "convert",
        help="published checkpoints to model folders, and back",
        description="Convert between the checkpoints of the paper's authors and model folders (docs/checkpoints.md).",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    add = kinds.add_parser(
        "upstream",
        help="a published checkpoint becomes a model folder",
        description="Read a published Lightning file, running nothing that is in it, and write a model folder. What "
        "the file holds beside weights is left out and named.",
        epilog="example: mvdiff convert upstream pano.ckpt --task panorama --out model",
    ).add_argument
    add("checkpoint", type=Path, metavar="FILE", help="the .ckpt file")
    add("--task", choices=TASKS, required=True, help="what it does; depth-single-view (stage 1) becomes a base")
    add("--out", type=Path, required=True, metavar="DIR", help="the model folder (or base) to write")
    add("--base", metavar="ID", help="hub id or folder of the base it was trained on (default: the paper's)")
    add("--revision", help="revision of a hub base")
    add("--save_base", type=Path, metavar="DIR", help="write the base inside the file here, and use it")
    add("--height", type=int, help="rows of the views (default: 512, depth 192)")
    add("--width", type=int, help="columns of the views (default: 512, depth 256)")
    add(
        "--text_dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision of the text encoder (default: float16, depth float32, as in the 2023 release)",
    )
    add("--overwrite", action="store_true", help="replace an earlier model folder (a base is never replaced)")
    add = kinds.add_parser(
        "to-upstream",
        help="a model folder with upstream's attention becomes a checkpoint",
        description="Write a model folder's weights under the names that the paper's code gives them.",
        epilog="example: mvdiff convert to-upstream model --out pano.ckpt",
    ).add_argument
    add("model", metavar="DIR", help="the model folder")
    add("--out", type=Path, required=True, metavar="FILE", help="the .ckpt file to write")
    add("--with_base", action="store_true", help="write the base into the file, too, as published files have it")
    add("--base", metavar="ID", help="where this machine has the base (default: the recorded one)")
    add("--overwrite", action="store_true", help="replace a file that exists")


def run(args: argparse.Namespace) -> int:
    """Convert; return the exit status."""
    from mvdiff.interop.conversion import SINGLE_VIEW, convert_checkpoint, convert_single_view, export_to_upstream

    if args.kind == "to-upstream":
        state = export_to_upstream(args.model, args.out, args.with_base, args.base, args.overwrite)
        print(f"{args.out}: {len(state)} weights under upstream's names")
        return 0
    if args.task == SINGLE_VIEW:
        options = ("save_base", "height", "width", "text_dtype", "overwrite")
        wrong = [name for name in options if getattr(args, name) not in (None, False)]
        if wrong:
            raise ValueError(f"--{wrong[0]} must be left out with --task {SINGLE_VIEW}, which writes a base to --out.")
        done = convert_single_view(args.checkpoint, args.out, args.base, args.revision)
        print(f"{args.out}: a base with the file's {', '.join(done.base_parts)}")
    else:
        done = convert_checkpoint(
            *(args.checkpoint, args.task, args.out, args.base),
            *(args.revision, args.save_base, args.height, args.width, args.text_dtype, args.overwrite),
        )
        print(f"{args.out}: {done.info.title}, {done.num_weights} weights, {done.num_parameters:,} parameters")
        parts = ", ".join(done.base_parts)
        found = f"{parts} written to {args.save_base}" if done.saved_base else f"{parts} equal to those of the base"
        print(f"the file's base: {found if parts else 'none in it'}")
    content = done.content
    print(f"left out: {', '.join(content.entries) or 'nothing'}")
    if content.ignored:
        print(f"{len(content.ignored)} foreign names, none of them loaded: {', '.join(content.ignored)}")
    return 0
