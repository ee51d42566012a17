"""`mvdiff video`: sample folders as MP4."""

import argparse
from pathlib import Path

_RANGES = {"seconds": (0.01, 3600), "fps": (0.1, 240), "fov": (1, 179), "pitch": (-90, 90), "yaw": (-360, 360)}
_SIDES = (2, 16384)  # rows or columns that x264 can encode


def add_parser(subparsers) -> None:
    """Add the `video` command."""
    parser = subparsers.add_parser(
        "video",
        help="a camera that turns in a panorama, or the frames of a recording, as MP4",
        description="Write an MP4 of each sample: of a panorama, a camera that turns once around to the right and ends "
        "where it began; of frames of a scene, the frames in order.",
        epilog="example: mvdiff video out/0000 --out video.mp4",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="DIR", help="a sample folder, or a root of them")
    add(
        "--out", type=Path, metavar="FILE", help="video.mp4; of several samples a folder (default: that of the samples)"
    )
    add("--seconds", type=float, default=12.0, help="length of the whole turn (default: %(default)s)")
    add("--fps", type=float, help="frames per second (default: 30, of recordings 8)")
    add("--fov", type=float, default=90.0, help="horizontal, degrees (default: %(default)s)")
    add("--pitch", type=float, default=0.0, help="up positive, degrees (default: %(default)s)")
    add("--yaw", type=float, default=0.0, help="where the turn begins, right positive (default: %(default)s)")
    add("--height", type=int, help="rows (default: 360; of recordings the frames' own)")
    add("--width", type=int, help="columns (default: 640; of recordings the frames' own)")
    add("--rig", type=Path, metavar="JSON", help="cameras of upstream's folders: a rig as in sample.json")


def run(args: argparse.Namespace) -> int:
    """Check, draw, write; return the exit status."""
    from mvdiff.cli.out_files import check_folder, check_out
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.report.video import require_av
    from mvdiff.samples import read_sample, scan_samples

    require_av()
    _check_options(args)
    rig = read_rig(args.rig)
    complete, incomplete = scan_samples(args.source)
    samples, problems = [], [f"{folder}: incomplete, its sample.json is missing" for folder in incomplete]
    for folder in complete:
        try:
            samples.append(read_sample(folder, rig))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if not samples:
        why = f" ({problems[0]})" if problems else ""
        raise ValueError(f"DIR must hold a complete sample; got none{why}, in {args.source}.")
    single = args.out is not None and (len(complete) == 1 or args.out.suffix)
    if single:
        check_out(args.out, ".mp4")
        if len(samples) > 1:
            raise ValueError(
                f"--out must be a folder where DIR holds several samples ({len(samples)}); got {args.out}."
            )
    elif args.out is not None:
        check_folder(args.out)
    written = 0
    with progress_bar() as bar:
        task = bar.add_task("samples", total=len(samples))
        for sample in samples:
            folder = sample.folder.resolve()
            path = args.out if single else (args.out or folder.parent) / f"{folder.name}.mp4"
            try:
                print(f"{path}: {_write(path, sample, args)}")
                written += 1
            except (ValueError, OSError) as error:
                if single:
                    raise
                problems.append(str(error))
            bar.advance(task)
    if not written:
        raise ValueError(f"DIR must hold a sample that can be drawn; got none ({problems[0]}).")
    for problem in problems:
        print(f"left out {problem}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name} must lie between {low} and {high}; got {value:g}.")
    low, high = _SIDES
    for name in ("height", "width"):
        value = getattr(args, name)
        if value is not None and (value % 2 or not low <= value <= high):
            nearest = min(max(value + value % 2, low), high)
            raise ValueError(f"--{name} must be even, from {low} to {high}; got {value}. Use {nearest}.")


def _write(path: Path, sample, args: argparse.Namespace) -> str:
    from mvdiff.cli.out_files import make_folder
    from mvdiff.report.pictures import is_recording
    from mvdiff.report.video import panorama_picture, recorded_frames, turning_frames, write_video

    if is_recording(sample):
        fps = 8.0 if args.fps is None else args.fps
        frames = recorded_frames(sample, args.height, args.width)
    else:
        fps = 30.0 if args.fps is None else args.fps
        camera = {"fov_deg": args.fov, "pitch_deg": args.pitch, "yaw_deg": args.yaw}
        size = (360 if args.height is None else args.height, 640 if args.width is None else args.width)
        frames = turning_frames(panorama_picture(sample), round(args.seconds * fps), *size, **camera)
    make_folder(path.parent)
    count = write_video(path, frames, fps)
    return f"{count} frames, {count / fps:.1f} s, {path.stat().st_size / 1e6:.1f} MB"
