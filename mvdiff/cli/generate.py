"""`mvdiff generate`: panoramas from prompts, or frames of scenes with depth, into sample folders."""

import argparse
from pathlib import Path

from mvdiff.cli.opening import add_data_option, add_model_options, open_pipeline
from mvdiff.settings import Controls, Sampling

MODES = ("keyframes", "interval", "full")


def add_parser(subparsers) -> None:
    """Add the `generate` command and its tasks."""
    parser = subparsers.add_parser("generate", help="panoramas from prompts or around pictures, frames from depth")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    _add_panorama(tasks)
    _add_outpaint(tasks)
    _add_depth(tasks)
    _add_dataset(tasks)


def _add_panorama(tasks) -> None:
    parser = tasks.add_parser(
        "panorama",
        help="all views of a panorama at once, from text",
        description="Write a sample folder per panorama: <i>.png for each view, panorama.png, and sample.json, which "
        "marks it complete. A rerun skips complete samples.",
        epilog='example: mvdiff generate panorama --model runs/pano/version_0/model --prompt "a kitchen" --out out',
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="a model folder (of fit or export), a hub id, or mvdiff://toy-caa")
    _add_prompts(parser)
    _add_shared(parser)
    add("--num_samples", type=int, default=1, help="panoramas per prompt (default: %(default)s)")
    add("--batch_size", type=int, default=1, help="panoramas at once (default: %(default)s)")
    add("--no_caa", action="store_true", help="the base alone, view by view (a control)")


def _add_outpaint(tasks) -> None:
    parser = tasks.add_parser(
        "outpaint",
        help="a panorama around given pictures",
        description="Continue pictures all around. Each goes into every view that it reaches; for several, repeat "
        "--image and give --fov, --yaw and --pitch once for all or as often as --image, in the same order; where "
        "several reach, the first counts. Transparent parts are generated. Writes sample folders as for panoramas, and "
        "in given/<i>.png what was given of each view. A rerun skips complete samples.",
        epilog="example: mvdiff generate outpaint --model runs/outpaint/version_0/model --image photo.jpg --fov 65 "
        '--prompt "a kitchen" --out out',
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="a model folder, a hub id, or mvdiff://toy-outpaint")
    add("--image", type=Path, action="append", required=True, metavar="FILE", help="a given picture")
    add("--fov", type=float, action="append", metavar="DEG", help="its horizontal field of view (default: 90)")
    add("--yaw", type=float, action="append", metavar="DEG", help="where its middle looks, to the right (default: 0)")
    add("--pitch", type=float, action="append", metavar="DEG", help="upwards (default: 0)")
    add("--no_paste_back", action="store_true", help="leave given pixels as the model renders them, for scores")
    add("--no_caa", action="store_true", help="the base alone, view by view (a control)")
    _add_prompts(parser)
    _add_shared(parser)
    add("--num_samples", type=int, default=1, help="panoramas per prompt (default: %(default)s)")
    add("--batch_size", type=int, default=1, help="panoramas at once (default: %(default)s)")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add the prompts of tasks whose views are a rig."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="one text for all views; or repeated, one per view in order")
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a text file, one panorama a line; or .json / .jsonl: texts, lists of one text per view, or "
        '{"prompt": ..., "id": ...}',
    )


def _add_depth(tasks) -> None:
    parser = tasks.add_parser(
        "depth",
        help="frames of scenes whose depth and poses are known",
        description="Write a sample folder per scene: <i>.png and depth/<i>.png for each frame, and sample.json with "
        "poses and prompts, which marks it complete. A rerun skips complete samples.",
        epilog="example: mvdiff generate depth --model runs/depth_stage2/version_0/model "
        "--scene scannet/test/scene0707_00 --out out --mode full",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="a model folder (of fit or export), or a hub id")
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
    add("--no_caa", action="store_true", help="the base alone, frame by frame (a control)")
    add("--real", type=Path, metavar="DIR", help="also write the real frames there, to score against")
    _add_shared(parser)


def _add_dataset(tasks) -> None:
    parser = tasks.add_parser(
        "dataset",
        help="the samples of a data set, for a model of any task",
        description="Write a sample folder per sample of one split of a run's data section. A rerun skips complete "
        "samples.",
        epilog="example: mvdiff generate dataset --model runs/pano/version_0/model --config pano.yaml --out out",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="ID", help="a model folder (of fit or export), a hub id, or mvdiff://NAME")
    add("--config", action="append", required=True, metavar="YAML", help="a run's YAML files, in order")
    add("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    add("--max_samples", type=int, metavar="N", help="stop after N samples (default: all)")
    add("--no_paste_back", action="store_true", help="leave known pixels as the model renders them, for scores")
    add("--no_caa", action="store_true", help="the base alone, view by view (a control)")
    add("--real", type=Path, metavar="DIR", help="also write the real views there, to score against")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options of every task."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where the sample folders go")
    add("--seed", type=int, default=0, help="with the sample's id it fixes the noise (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="(default: %(default)s)")
    add("--guidance_scale", type=float, default=9.0, help="1 is no guidance (default: %(default)s)")
    add("--negative_prompt", help="what to steer away from")
    add("--overwrite", action="store_true", help="generate complete samples again")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    prompts = getattr(args, "prompt", None) or ()
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("--prompt must say what is to be seen; got an empty text. Write a few words.")
    return {"panorama": _panorama, "outpaint": _outpaint, "depth": _depth, "dataset": _dataset}[args.task](args)


def _panorama(args: argparse.Namespace) -> int:
    entries = _entries(args)
    _make_folder(args.out)

    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

    return _panoramas(args, open_pipeline(MVDiffusionPanoramaPipeline, args), entries)


def _outpaint(args: argparse.Namespace) -> int:
    from mvdiff.pipelines.given import given_images, given_views

    pictures = given_images(args.image, *(_angles(args, name) for name in ("fov", "yaw", "pitch")))
    entries = _entries(args)
    _make_folder(args.out)

    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

    pipeline = open_pipeline(MVDiffusionOutpaintPipeline, args)
    given, count = given_views(pictures, pipeline.rig), len(entries)
    shares = given.known.mean(dim=(1, 2, 3))
    reached = ", ".join(f"{view}: {share:.0%}" for view, share in enumerate(shares.tolist()) if share > 0)
    print(f"{args.out}: given of the views: {reached}")
    return _panoramas(
        args,
        pipeline,
        entries,
        images=given.images.expand(count, -1, -1, -1, -1),
        known=given.known.expand(count, -1, -1, -1, -1),
        notes=[{"pictures": given.pictures}] * count,
    )


def _panoramas(args: argparse.Namespace, pipeline, entries, **fields) -> int:
    """Generate the entries' panoramas; `fields` of the batch say what is given of them."""
    from mvdiff.pipelines.calls import rig_batch
    from mvdiff.pipelines.prompt_files import expand_prompts
    from mvdiff.pipelines.sample_folders import generate_samples

    prompts = expand_prompts([entry.prompt for entry in entries], pipeline.rig.num_views)
    counts = generate_samples(
        pipeline,
        rig_batch(pipeline.rig, prompts, [entry.sample_id for entry in entries], **fields),
        args.out,
        seed=args.seed,
        batch_size=args.batch_size,
        sampling=_sampling(args),
        controls=Controls(caa=not args.no_caa),
        paste_back=not getattr(args, "no_paste_back", False),
        overwrite=args.overwrite,
    )
    print(f"{args.out}: {counts.written} panoramas written, {counts.skipped} complete ones skipped")
    return 0


def _dataset(args: argparse.Namespace) -> int:
    if args.max_samples is not None and args.max_samples < 1:
        raise ValueError(f"--max_samples must be at least 1; got {args.max_samples}.")
    _make_folder(args.out)

    from mvdiff.cli.config_files import open_data
    from mvdiff.cli.progress import progress_bar
    from mvdiff.pipelines.base import MultiViewPipeline
    from mvdiff.pipelines.sample_folders import generate_samples, write_reference

    data = open_data(args.config, args.split).data
    batches = data.eval_dataloader(args.split)
    pipeline = open_pipeline(MultiViewPipeline, args)
    pipeline.set_progress_bar_config(disable=True)
    rig = getattr(data, "rig", None) if "rig" in pipeline.task.view_fields else None
    written = skipped = 0
    with progress_bar() as bar:
        task = bar.add_task(str(args.out), total=args.max_samples)
        for batch in batches:
            left = None if args.max_samples is None else args.max_samples - written - skipped
            if left == 0:
                break
            batch = batch if left is None else batch.rows(range(min(left, batch.batch_size)))
            counts = generate_samples(
                pipeline,
                batch,
                args.out,
                rig=rig,
                seed=args.seed,
                sampling=_sampling(args),
                controls=Controls(caa=not args.no_caa),
                paste_back=not args.no_paste_back,
                overwrite=args.overwrite,
            )
            if args.real is not None:
                write_reference(batch, args.real, rig=rig, overwrite=args.overwrite)
            written, skipped = written + counts.written, skipped + counts.skipped
            bar.advance(task, batch.batch_size)
    print(f"{args.out}: {written} samples written, {skipped} complete ones skipped")
    return 0


def _angles(args: argparse.Namespace, name: str) -> float | list[float]:
    """Return an angle for all pictures, or one for each; an error names the option."""
    values, count = getattr(args, name), len(args.image)
    if values is None:
        return 90.0 if name == "fov" else 0.0
    if len(values) not in (1, count):
        raise ValueError(
            f"--{name} must be given once for all pictures or once for each ({count}); got {len(values)}. Repeat it as "
            "often as --image."
        )
    return values[0] if len(values) == 1 else values


def _entries(args: argparse.Namespace) -> list:
    """Return the samples that --prompt or --prompts ask for."""
    from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated

    if args.prompts is not None:
        return repeated(read_prompts(args.prompts), args.num_samples)
    prompt = args.prompt[0] if len(args.prompt) == 1 else tuple(args.prompt)
    return repeated([PromptEntry("0000", prompt)], args.num_samples)


def _depth(args: argparse.Namespace) -> int:
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
            raise ValueError(f"--{name} must be at least 1; got {getattr(args, name)}. Leave it out for the model's.")
    scenes = [_scene(path, args) for path in args.scene]  # all are looked at before the model is loaded
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        raise ValueError(f"--scene must name folders of different names; got {', '.join(names)}. Run one at a time.")
    _make_folder(args.out)
    pipeline = open_pipeline(MVDiffusionDepthPipeline, args)
    pipeline.set_progress_bar_config(disable=True)
    size = (args.height or pipeline.height, args.width or pipeline.width)
    sequences = [_sequence(scene, args, *size) for scene in scenes]
    with progress_bar() as bar:
        for sequence in sequences:
            task = bar.add_task(sequence.name, total=len(sequence))
            counts = generate_sequence_folder(
                pipeline,
                sequence,
                args.out,
                prompt=prompt,
                num_views=args.num_views,
                window_overlap=args.window_overlap,
                batch_size=args.batch_size,
                seed=args.seed,
                sampling=_sampling(args),
                controls=Controls(caa=not args.no_caa),
                overwrite=args.overwrite,
                settings={"mode": args.mode},
                progress=lambda frame, task=task: bar.advance(task),
            )
            bar.remove_task(task)
            if args.real is not None:
                write_real_sequence(sequence, args.real, overwrite=args.overwrite, prompt=prompt)
            done = "written" if counts.written else "complete before, skipped"
            print(f"{sequence.name}: {_described(sequence, prompt)}; {done}")
    print(f"{args.out}: {len(sequences)} scenes")
    return 0


def _scene(path: Path, args: argparse.Namespace):
    """Open a scene that has the frames and captions that are asked for."""
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
    """Choose the frames of a scene that are asked for."""
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
    """Say what a sequence is made of, and what of the scene is not in it."""
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


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out must be a folder that can be written; got {out} ({error.strerror}). Choose another folder."
        ) from error


def _sampling(args: argparse.Namespace) -> Sampling:
    """Return how every task samples."""
    return Sampling(
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
    )
