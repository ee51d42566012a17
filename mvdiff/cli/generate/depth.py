"""`mvdiff generate depth`: frames of scenes whose depth and poses are known."""

import argparse
from pathlib import Path

from mvdiff.cli.generate.options import add_shared, shared_settings
from mvdiff.cli.opening import add_data_option, open_pipeline
from mvdiff.cli.out_files import make_folder

MODES = ("keyframes", "interval", "full")


def add_parser(tasks) -> None:
    """Add the task."""
    parser = tasks.add_parser(
        "depth",
        help="frames of scenes whose depth and poses are known",
        description="Write a sample folder per scene: <i>.png and depth/<i>.png for each frame, and sample.json with "
        "poses and prompts, which marks it complete. A rerun skips complete samples.",
        epilog="example: mvdiff generate depth --model runs/depth_stage2/version_0/model "
        "--scene scannet/test/scene0707_00 --out out --mode full",
    )
    parser.set_defaults(run_task=run)
    add = parser.add_argument
    add("--scene", type=Path, nargs="+", required=True, metavar="DIR", help="scenes in any layout")
    add_data_option(parser)
    add(
        "--mode",
        choices=MODES,
        default="keyframes",
        help="key frames; every --interval-th usable frame; or key frames, then all frames between them "
        "(default: %(default)s)",
    )
    add("--interval", type=int, default=20, help="of --mode interval (default: %(default)s)")
    add("--max_between", type=int, metavar="N", help="of --mode full: at most N frames between two key frames, evenly")
    add("--max_frames", type=int, metavar="N", help="the first N frames only, up to the last key frame among them")
    add("--prompt", action="append", help="one text for all frames, in place of their captions")
    add("--height", type=int, help="rows of the frames (default: the model's)")
    add("--width", type=int, help="their columns (default: the model's)")
    add("--num_views", type=int, default=12, help="frames at once (default: %(default)s)")
    add(
        "--window_overlap",
        type=int,
        default=1,
        help="where there are more key frames: how many of them the next ones are given; 0 makes each --num_views by "
        "themselves (default: %(default)s)",
    )
    add("--batch_size", type=int, default=1, help="parts between key frames at once (default: %(default)s)")
    add("--real", type=Path, metavar="DIR", help="also write the real frames there, to score against")
    add_shared(parser)


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    from mvdiff.cli.progress import progress_bar
    from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
    from mvdiff.pipelines.sequence_folders import generate_sequence_folder, write_real_sequence

    if args.prompt is not None and len(args.prompt) > 1:
        raise ValueError(
            f"--prompt must be one text for all frames; got {len(args.prompt)}. Texts of their own are captions in the "
            "scene's prompt/."
        )
    prompt = None if args.prompt is None else args.prompt[0]
    for name in ("height", "width"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1; got {getattr(args, name)}.")
    scenes = [_scene(path, args) for path in args.scene]  # all are looked at before the model is loaded
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        raise ValueError(f"--scene must name folders of different names; got {', '.join(names)}. Run one at a time.")
    make_folder(args.out)
    pipeline = open_pipeline(MVDiffusionDepthPipeline, args)
    pipeline.set_progress_bar_config(disable=True)
    size = (args.height or pipeline.height, args.width or pipeline.width)
    sequences = [_sequence(scene, args, *size) for scene in scenes]
    how = shared_settings(args) | {name: getattr(args, name) for name in ("num_views", "window_overlap", "batch_size")}
    how |= {"prompt": prompt, "settings": {"mode": args.mode}}
    with progress_bar() as bar:
        for sequence in sequences:
            task = bar.add_task(sequence.name, total=len(sequence))
            counts = generate_sequence_folder(
                pipeline, sequence, args.out, progress=lambda frame, task=task: bar.advance(task), **how
            )
            bar.remove_task(task)
            if args.real is not None:
                write_real_sequence(sequence, args.real, overwrite=args.overwrite, prompt=prompt)
            done = "written" if counts.written else "complete before, skipped"
            print(f"{sequence.name}: {_described(sequence, prompt)}; {done}")
    print(f"{args.out}: {len(sequences)} scenes")
    return 0


def _scene(path: Path, args: argparse.Namespace):
    from mvdiff.data.layouts import Source, open_recording

    scene = open_recording(path, Source.of_option(args.data), on_broken="skip", missing_caption="nearest")
    frames = scene.valid_frames if args.mode == "interval" else scene.key_frames
    if not frames:
        raise ValueError(
            f"{path} must have frames to generate; got none that is usable ({_counted(scene.unusable)}). Run "
            f"`mvdiff data check {path}`."
        )
    if args.prompt is None and not scene.has_captions:
        raise FileNotFoundError(
            f"{path / 'prompt'} must hold a caption of at least one frame; got none. Give --prompt, one text for all "
            f"frames, or run `mvdiff data caption {path}`."
        )
    return scene


def _sequence(scene, args: argparse.Namespace, height: int, width: int):
    from mvdiff.data.sequences import full_sequence, interval_sequence, key_sequence
    from mvdiff.pipelines.two_stage import first_frames

    if args.mode == "keyframes":
        sequence = key_sequence(scene, height, width)
    elif args.mode == "interval":
        sequence = interval_sequence(scene, height, width, args.interval)
    else:
        sequence = full_sequence(scene, height, width, args.max_between)
    return sequence if args.max_frames is None else first_frames(sequence, args.max_frames)


def _described(sequence, prompt: str | None) -> str:
    """Describe the frames of a sequence, and those of the scene that are left out."""
    scene, parts = sequence.scene, [f"{len(sequence)} frames"]
    if len(sequence.key_ids) < len(sequence):
        parts[0] += f", {len(sequence.key_ids)} of them key frames"
    if scene.unusable:
        parts.append(f"{scene.unusable.total()} unusable frames left out ({_counted(scene.unusable)})")
    without = [] if prompt is not None else scene.without_caption(sequence.frame_ids)
    if without:
        parts.append(f"{len(without)} without caption take the nearest frame's")
    return "; ".join(parts)


def _counted(reasons) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())) or "none is listed"
