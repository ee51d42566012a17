"""`mvdiff data check|split|toyworld`: make, split and check data sets."""

import argparse
from pathlib import Path


def add_parser(subparsers) -> None:
    """Add the `data` command and its own commands."""
    parser = subparsers.add_parser("data", help="make, split and check data sets")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="name everything broken in a data set, in one pass",
        description="Decode every image and read every caption of a Matterport3D or equirectangular folder, and name "
        "every broken or missing file, empty caption and wrong size. Exits with 1 if anything is wrong.",
    )
    check.add_argument("dir", type=Path, metavar="DIR")
    check.add_argument("--num_threads", type=int, default=8, help="files decoded at once (default: %(default)s)")

    split = commands.add_parser(
        "split",
        help="write the train and test lists, from a raw download too",
        description="Write train.npy and test.npy (or train.txt and test.txt for equirectangular images). Matterport3D "
        "is split by scene; archives of a raw download are unpacked first.",
    )
    split.add_argument("dir", type=Path, metavar="DIR")
    split.add_argument("--test_fraction", type=float, default=0.1, help="share to test on (default: %(default)s)")
    split.add_argument("--test_scenes", type=Path, metavar="FILE", help="scenes (or images) to test on, one a line")
    split.add_argument("--seed", type=int, default=0, help="another seed chooses other scenes (default: %(default)s)")
    split.add_argument("--overwrite", action="store_true", help="replace lists that exist")

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
    toyworld.add_argument("--num_workers", type=int, default=1, help="processes that render (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; return the exit status."""
    return {"check": _check, "split": _split, "toyworld": _toyworld}[args.data_command](args)


def _check(args: argparse.Namespace) -> int:
    from mvdiff.data.prepare.check import check_folder

    with _progress() as bar:
        task = bar.add_task("checking", total=None)
        report = check_folder(
            args.dir, args.num_threads, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in report.problems:
        print(problem)
    sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common())
    lists = ", ".join(f"{count} in {name}" for name, count in report.panoramas.items()) or "none"
    print(f"{report.root}: {report.layout} layout; panoramas: {lists}; images: {sizes}; captions: {report.captions}")
    if report.problems:
        counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.counts.items()))
        print(f"{len(report.problems)} problems: {counts}")
        return 1
    print("no problems")
    return 0


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
    print(f"{report.train} train and {report.test} test panoramas: {', '.join(map(str, report.files))}")
    return 0


def _toyworld(args: argparse.Namespace) -> int:
    from mvdiff.data.toyworld import write_toyworld

    with _progress() as bar:
        task = bar.add_task("rooms", total=args.rooms)
        write_toyworld(
            args.dir,
            rooms=args.rooms,
            seed=args.seed,
            size=args.size,
            test_rooms=args.test_rooms,
            num_frames=args.num_frames,
            num_workers=args.num_workers,
            progress=lambda index: bar.advance(task),
        )
    print(f"{args.rooms} rooms in {args.dir}: mp3d_skybox" + (" and scannet" if args.num_frames else ""))
    return 0


def _progress():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
