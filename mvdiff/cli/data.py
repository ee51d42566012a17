"""`mvdiff data check|split|import-sens|keyframes|caption|toyworld`: make, split, caption and check data sets."""

import argparse
from pathlib import Path

from mvdiff.cli.opening import add_data_option
from mvdiff.cli.progress import progress_bar


def add_parser(subparsers) -> None:
    """Add the `data` command and its own commands."""
    parser = subparsers.add_parser("data", help="make, split and check data sets")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="name everything broken in a data set, in one pass",
        description="Decode every image and read every caption, pose and list of a folder of panoramas or of "
        "recordings, and name every broken or missing file, empty caption and wrong size. Exits with 1 if anything is "
        "wrong.",
    )
    check.add_argument("dir", type=Path, metavar="DIR")
    add_data_option(check)
    check.add_argument("--num_threads", type=int, default=8, help="files decoded at once (default: %(default)s)")

    split = commands.add_parser(
        "split",
        help="write the train and test lists, from a raw download too",
        description="Write train.npy and test.npy (train.txt and test.txt for equirectangular images and recordings). "
        "Matterport3D is split by scene; archives of a raw download are unpacked first.",
    )
    split.add_argument("dir", type=Path, metavar="DIR")
    split.add_argument("--test_fraction", type=float, default=0.1, help="share to test on (default: %(default)s)")
    split.add_argument("--test_scenes", type=Path, metavar="FILE", help="scenes (or images) to test on, one a line")
    split.add_argument("--seed", type=int, default=0, help="another seed chooses other scenes (default: %(default)s)")
    split.add_argument("--overwrite", action="store_true", help="replace lists that exist")

    sens = commands.add_parser(
        "import-sens",
        help="decode a ScanNet recording",
        description="Write a .sens recording (version 4) as a scene: color, depth, pose, intrinsic. Frames that are "
        "there are kept, so that an import can be continued.",
    )
    sens.add_argument("file", type=Path, metavar="FILE.sens")
    sens.add_argument("dir", type=Path, metavar="DIR", help="the scene's folder, as in scannet/train/scene0000_00")
    sens.add_argument("--frame_skip", type=int, default=1, help="save every N-th frame (default: %(default)s)")

    keyframes = commands.add_parser(
        "keyframes",
        help="choose the key frames of scenes",
        description="Write key_frame_0.6.txt and valid_frames.npy of each scene: key frames whose consecutive overlap "
        "is about a share, and the frames whose pose is finite and depth usable. Exits with 1 if a scene has none.",
    )
    keyframes.add_argument("dir", type=Path, metavar="DIR", help="a scene, or a folder of scenes")
    add_data_option(keyframes)
    keyframes.add_argument(
        "--overlap", type=float, default=0.65, help="overlap of consecutive key frames (default: %(default)s)"
    )
    keyframes.add_argument(
        "--min_depth",
        type=float,
        default=0.2,
        help="share of pixels a usable frame has depth at (default: %(default)s)",
    )
    keyframes.add_argument("--out", type=Path, metavar="DIR", help="write there, with links to the frames")
    keyframes.add_argument("--overwrite", action="store_true", help="choose anew where lists are there")
    keyframes.add_argument("--num_workers", type=int, default=1, help="processes (default: %(default)s)")

    caption = commands.add_parser(
        "caption",
        help="caption panoramas or scenes",
        description="Caption the views of panoramas (every 45 degrees) and the key frames of scenes by an image "
        "captioning model of transformers. What has a caption keeps it, so that a run can be continued. Exits with 1 "
        "if something could not be captioned.",
    )
    caption.add_argument("dir", type=Path, metavar="DIR", help="a data set in any layout, or a scene")
    add_data_option(caption)
    caption.add_argument(
        "--model", default="Salesforce/blip2-opt-2.7b", help="hub id or folder of the model (default: %(default)s)"
    )
    caption.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    caption.add_argument(
        "--every", type=int, metavar="N", help="in scenes, every N-th usable frame instead of key frames"
    )
    caption.add_argument("--batch_size", type=int, default=8, help="pictures at once (default: %(default)s)")
    caption.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    caption.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="of the model (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    caption.add_argument("--prompt", default="", help="what the model is given to continue or to answer")
    caption.add_argument("--max_new_tokens", type=int, default=40, help="length of a caption (default: %(default)s)")
    caption.add_argument(
        "--view_size", type=int, default=512, help="side of a panorama's views, pixels (default: %(default)s)"
    )
    caption.add_argument("--overwrite", action="store_true", help="caption anew what has a caption")

    toyworld = commands.add_parser(
        "toyworld",
        help="write a data set of small procedural rooms",
        description="Write ray-traced rooms with captions to DIR/mp3d_skybox and DIR/scannet.",
    )
    toyworld.add_argument("dir", type=Path, metavar="DIR")
    toyworld.add_argument("--rooms", type=int, default=40, help="number of rooms (default: %(default)s)")
    toyworld.add_argument("--seed", type=int, default=0, help="which world (default: %(default)s)")
    toyworld.add_argument("--size", type=int, default=128, help="side of a face, pixels (default: %(default)s)")
    toyworld.add_argument("--test_rooms", type=int, help="rooms of the test split (default: a fifth)")
    toyworld.add_argument(
        "--num_frames", type=int, default=60, help="frames of each camera path, 0 for none (default: %(default)s)"
    )
    toyworld.add_argument(
        "--arc_deg",
        type=float,
        default=360.0,
        help="how far around the room a path goes; less gives closer frames (default: %(default)s)",
    )
    toyworld.add_argument("--num_workers", type=int, default=1, help="processes that render (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; return the exit status."""
    commands = {
        "check": _check,
        "split": _split,
        "import-sens": _import_sens,
        "keyframes": _keyframes,
        "caption": _caption,
        "toyworld": _toyworld,
    }
    return commands[args.data_command](args)


def _check(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.check import check_folders

    with progress_bar() as bar:
        task = bar.add_task("checking", total=None)
        reports = check_folders(
            args.dir,
            args.num_threads,
            lambda done, total: bar.update(task, completed=done, total=total),
            Source.of_option(args.data),
        )
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
        if report.problems:
            counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.counts.items()))
            print(f"{len(report.problems)} problems: {counts}")
        else:
            print("no problems")
    return int(any(report.problems for report in reports))


def _split(args: argparse.Namespace) -> int:
    from mvdiff.data.prepare.split import split_folder

    names = None
    if args.test_scenes:
        names = [line.strip() for line in args.test_scenes.read_text(encoding="utf-8").splitlines() if line.strip()]
    report = split_folder(args.dir, args.test_fraction, names, args.seed, args.overwrite)
    for archive in report.unpacked:
        print(f"unpacked {archive}")
    for panorama in report.left_out:
        print(f"left out, not all six faces are there: {panorama}")
    print(f"{report.train} train and {report.test} test {report.noun}: {', '.join(map(str, report.files))}")
    return 0


def _import_sens(args: argparse.Namespace) -> int:
    from mvdiff.data.prepare.sens import import_sens

    with progress_bar() as bar:
        task = bar.add_task("frames", total=None)
        report = import_sens(
            args.file, args.dir, args.frame_skip, lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(f"{report.saved} frames saved, {report.kept} were there, of {report.total}: {args.dir}")
    return 0


def _keyframes(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.keyframes import key_frames_of

    with progress_bar() as bar:
        task = bar.add_task("scenes", total=None)

        def say(found, total: int) -> None:
            bar.update(task, advance=1, total=total)
            print(found)

        found = key_frames_of(
            args.dir,
            args.overlap,
            args.min_depth,
            args.out,
            args.overwrite,
            args.num_workers,
            progress=say,
            source=Source.of_option(args.data),
        )
    failed = sum(bool(scene.problem) for scene in found)
    overlaps = [overlap for scene in found for overlap in scene.overlaps]
    text = f"; overlap of {len(overlaps)} pairs: {sum(overlaps) / len(overlaps):.3f}" if overlaps else ""
    print(f"{len(found)} scenes: {sum(scene.kept for scene in found)} had lists, {failed} failed{text}")
    return int(failed > 0)


def _caption(args: argparse.Namespace) -> int:
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.caption import caption_folder
    from mvdiff.data.prepare.captioner import Captioner

    captioner = Captioner(args.model, args.revision, args.device, args.dtype, args.prompt, args.max_new_tokens)
    with progress_bar() as bar:
        task = bar.add_task("captions", total=None)
        report = caption_folder(
            args.dir,
            captioner,
            args.every,
            args.batch_size,
            args.view_size,
            args.overwrite,
            lambda done, total: bar.update(task, completed=done, total=total),
            Source.of_option(args.data),
        )
    for failure in report.failed:
        print(failure)
    print(f"{report.written} captions written, {report.kept} were there, {len(report.failed)} failures: {args.dir}")
    return int(bool(report.failed))


def _toyworld(args: argparse.Namespace) -> int:
    from mvdiff.data.toyworld import write_toyworld

    with progress_bar() as bar:
        task = bar.add_task("rooms", total=args.rooms)
        write_toyworld(
            args.dir,
            rooms=args.rooms,
            seed=args.seed,
            size=args.size,
            test_rooms=args.test_rooms,
            num_frames=args.num_frames,
            arc_deg=args.arc_deg,
            num_workers=args.num_workers,
            progress=lambda index: bar.advance(task),
        )
    print(f"{args.rooms} rooms in {args.dir}: mp3d_skybox" + (" and scannet" if args.num_frames else ""))
    return 0
