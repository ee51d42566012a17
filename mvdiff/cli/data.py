"""`mvdiff data check|split|import-sens|keyframes|caption|toyworld`: make, split, caption and check data sets."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mvdiff.cli.opening import add_data_option
from mvdiff.cli.progress import progress_bar, progress_of


def add_parser(subparsers) -> None:
    """Add the `data` command and its own commands."""
    parser = subparsers.add_parser("data", help="make, split and check data sets")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], **texts: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, **texts)
        parser.set_defaults(run_command=run)
        return parser

    check = command(
        "check",
        _check,
        help="name everything broken in a data set, in one pass",
        description="Decode every image and read every caption, pose and list of a folder of panoramas or of "
        "recordings, and name every broken or missing file, empty caption and wrong size. Exits with 1 if anything is "
        "wrong.",
    )
    check.add_argument("dir", type=Path, metavar="DIR")
    add_data_option(check)
    check.add_argument("--num_threads", type=int, default=8, help="files decoded at once (default: %(default)s)")

    split = command(
        "split",
        _split,
        help="write the train and test lists, from a raw download too",
        description="Write train.npy and test.npy (train.txt and test.txt for equirectangular images and recordings). "
        "Matterport3D is split by scene; archives of a raw download are unpacked first.",
    )
    add = split.add_argument
    add("dir", type=Path, metavar="DIR")
    add_data_option(split)
    add("--test_fraction", type=float, default=0.1, help="share to test on (default: %(default)s)")
    add("--test_scenes", type=Path, metavar="FILE", help="scenes (or images) to test on, one a line")
    add("--seed", type=int, default=0, help="another seed chooses other scenes (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace lists that exist")

    add = command(
        "import-sens",
        _import_sens,
        help="decode a ScanNet recording",
        description="Write a .sens recording (version 4) as a scene: color, depth, pose, intrinsic. Frames that are "
        "there are kept, so that an import can be continued.",
    ).add_argument
    add("file", type=Path, metavar="FILE.sens")
    add("dir", type=Path, metavar="DIR", help="the scene's folder, as in scannet/train/scene0000_00")
    add("--frame_skip", type=int, default=1, help="save every N-th frame (default: %(default)s)")

    keyframes = command(
        "keyframes",
        _keyframes,
        help="choose the key frames of scenes",
        description="Write key_frame_0.6.txt and valid_frames.npy of each scene: key frames whose consecutive overlap "
        "is about a share, and the frames whose pose is finite and depth usable. Exits with 1 if a scene has none.",
    )
    add = keyframes.add_argument
    add("dir", type=Path, metavar="DIR", help="a scene, or a folder of scenes")
    add_data_option(keyframes)
    add("--overlap", type=float, default=0.65, help="overlap of consecutive key frames (default: %(default)s)")
    add("--min_depth", type=float, default=0.2, help="share of a usable frame with depth (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="write there, with links to the frames")
    add("--overwrite", action="store_true", help="replace lists that exist")
    add("--num_workers", type=int, default=1, help="processes (default: %(default)s)")

    caption = command(
        "caption",
        _caption,
        help="caption panoramas or scenes",
        description="Caption the views of panoramas (every 45 degrees) and the key frames of scenes by an image "
        "captioning model of transformers. What has a caption keeps it, so that a run can be continued. Exits with 1 "
        "if something could not be captioned.",
    )
    add = caption.add_argument
    add("dir", type=Path, metavar="DIR", help="a data set in any layout, or a scene")
    add_data_option(caption)
    add("--model", default="Salesforce/blip2-opt-2.7b", help="hub id or folder of the model (default: %(default)s)")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--every", type=int, metavar="N", help="in scenes, every N-th usable frame instead of key frames")
    add("--batch_size", type=int, default=8, help="pictures at once (default: %(default)s)")
    add("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    dtypes = ("auto", "float32", "float16", "bfloat16")
    add("--dtype", choices=dtypes, default="auto", help="weight precision (default: bfloat16 on a GPU, else float32)")
    add("--prompt", default="", help="text for the model to continue or to answer")
    add("--max_new_tokens", type=int, default=40, help="length of a caption (default: %(default)s)")
    add("--view_size", type=int, default=512, help="side of a panorama's views, pixels (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace captions that exist")

    add = command(
        "toyworld",
        _toyworld,
        help="write a data set of small procedural rooms",
        description="Write ray-traced rooms with captions to DIR/mp3d_skybox and DIR/scannet.",
    ).add_argument
    add("dir", type=Path, metavar="DIR")
    add("--rooms", type=int, default=40, help="number of rooms (default: %(default)s)")
    add("--seed", type=int, default=0, help="which world (default: %(default)s)")
    add("--size", type=int, default=128, help="side of a face, pixels (default: %(default)s)")
    add("--test_rooms", type=int, help="rooms of the test split (default: a fifth)")
    add("--num_frames", type=int, default=60, help="frames of each camera path, 0 for none (default: %(default)s)")
    add("--arc_deg", type=float, default=360.0, help="arc of a path; less gives closer frames (default: %(default)s)")
    add("--num_workers", type=int, default=1, help="processes that render (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; return the exit status."""
    return args.run_command(args)


def _check(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.check import check_folders

    with progress_of("checking") as progress:
        reports = check_folders(args.dir, args.num_threads, progress, Source.of_option(args.data))
    for report in reports:
        for problem in report.problems:
            print(problem)
        for scene, found in report.agreement.items():
            if doubt := found.problem(real_colours=True):
                print(f"warning: {scene}: {doubt}; its poses (world-from-camera?) or intrinsics may be wrong")
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common())
        lists = ", ".join(f"{count} in {name}" for name, count in report.panoramas.items()) or "none"
        notes = "".join(f"; {count} x {kind}" for kind, count in sorted(report.notes.items()))
        agreement = [found.agreement for found in report.agreement.values() if found.agreement == found.agreement]
        if agreement:
            notes += f"; depth agreement {sum(agreement) / len(agreement):.3f} (lowest {min(agreement):.3f})"
        print(
            f"{report.root}: {report.layout} layout; {report.noun}: {lists}; images: {sizes}; captions: "
            f"{report.captions}{notes}"
        )
        counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.counts.items()))
        print(f"{len(report.problems)} problems: {counts}" if report.problems else "no problems")
    return int(any(report.problems for report in reports))


def _split(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.split import split_folder

    names = None
    if args.test_scenes:
        names = [line.strip() for line in args.test_scenes.read_text(encoding="utf-8").splitlines() if line.strip()]
    how = args.test_fraction, names, args.seed, args.overwrite
    report = split_folder(args.dir, *how, source=Source.of_option(args.data))
    for archive in report.unpacked:
        print(f"unpacked {archive}")
    for panorama in report.left_out:
        print(f"left out, not all six faces are there: {panorama}")
    print(f"{report.train} train and {report.test} test {report.noun}: {', '.join(map(str, report.files))}")
    return 0


def _import_sens(args: argparse.Namespace) -> int:
    from mvdiff.data.prepare.sens import import_sens

    with progress_of("frames") as progress:
        report = import_sens(args.file, args.dir, args.frame_skip, progress)
    print(f"{report.saved} frames saved, {report.kept} were there, of {report.total}: {args.dir}")
    return 0


def _keyframes(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.keyframes import key_frames_of

    with progress_bar() as bar:
        task = bar.add_task("scenes", total=None)

        def say(scene, total: int) -> None:
            bar.update(task, advance=1, total=total)
            print(scene)

        chosen = (args.overlap, args.min_depth, args.out, args.overwrite, args.num_workers)
        scenes = key_frames_of(args.dir, *chosen, progress=say, source=Source.of_option(args.data))
    failed = sum(bool(scene.problem) for scene in scenes)
    overlaps = [overlap for scene in scenes for overlap in scene.overlaps]
    text = f"; overlap of {len(overlaps)} pairs: {sum(overlaps) / len(overlaps):.3f}" if overlaps else ""
    print(f"{len(scenes)} scenes: {sum(scene.kept for scene in scenes)} had lists, {failed} failed{text}")
    return int(failed > 0)


def _caption(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.caption import caption_folder
    from mvdiff.data.prepare.captioner import Captioner

    captioner = Captioner(args.model, args.revision, args.device, args.dtype, args.prompt, args.max_new_tokens)
    how = (args.every, args.batch_size, args.view_size, args.overwrite)
    with progress_of("captions") as progress:
        report = caption_folder(args.dir, captioner, *how, progress, Source.of_option(args.data))
    for failure in report.failed:
        print(failure)
    print(f"{report.written} captions written, {report.kept} were there, {len(report.failed)} failures: {args.dir}")
    return int(bool(report.failed))


def _toyworld(args: argparse.Namespace) -> int:
    from mvdiff.data.toyworld import write_toyworld

    names = ("rooms", "seed", "size", "test_rooms", "num_frames", "arc_deg", "num_workers")
    with progress_bar() as bar:
        task = bar.add_task("rooms", total=args.rooms)
        options = {name: getattr(args, name) for name in names}
        write_toyworld(args.dir, **options, progress=lambda index: bar.advance(task))
    print(f"{args.rooms} rooms in {args.dir}: mp3d_skybox" + (" and scannet" if args.num_frames else ""))
    return 0
