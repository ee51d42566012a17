"""`mvdiff report`: one page of sample folders, scores and meshes."""

import argparse
from pathlib import Path


def add_parser(subparsers) -> None:
    """Add the `report` command."""
    parser = subparsers.add_parser(
        "report",
        help="one page of sample folders, scores and meshes, several methods side by side",
        description="Write one HTML file that holds everything it shows: a 360-degree viewer for panoramas, strips of "
        "views, scores, and meshes in 3D. Several DIRs stand side by side, on the sample ids that they share.",
        epilog="example: mvdiff report out other --names mine theirs --out report.html",
    )
    add = parser.add_argument
    add(
        "sources",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a root of sample folders, one sample, what `mvdiff test` wrote, or the results.json of `mvdiff evaluate`",
    )
    add("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first DIR)")
    add("--names", nargs="+", metavar="NAME", help="names of the DIRs (default: the names of their folders)")
    add("--title", help="heading (default: the names)")
    add("--max_samples", type=int, default=12, metavar="N", help="show the first N samples (default: %(default)s)")
    add("--max_views", type=int, default=16, metavar="N", help="show N frames of a recording (default: %(default)s)")
    add("--mesh", type=Path, nargs="+", default=[], metavar="FILE", help=".glb or .ply, beside those found in a DIR")
    add("--rig", type=Path, metavar="JSON", help="cameras of upstream's folders: a rig as in sample.json")


def run(args: argparse.Namespace) -> int:
    """Write the page and print what it holds; return the exit status."""
    from mvdiff.cli.out_files import check_out, make_folder
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.report import write_page
    from mvdiff.report.sample_page import gather
    from mvdiff.report.sources import open_sources

    sources = open_sources(args.sources, args.names, read_rig(args.rig))
    first = args.sources[0]
    out = args.out or (first if first.is_dir() else first.parent) / "report.html"
    check_out(out, ".html")
    content = gather(sources, args.mesh, args.max_samples, args.max_views)
    title = args.title or " and ".join(source.method.name for source in sources)
    make_folder(out.parent)
    write_page(out, content.page(title))
    for problem in content.problems:
        print(f"left out {problem}")
    parts = [f"{content.num_shown} of {content.num_samples} samples"] if content.num_samples else []
    parts += [f"{len(content.meshes)} scenes in 3D"] if content.meshes else []
    parts += ["scores"] if content.tables else []
    print(f"{out}: {', '.join(parts)}; {out.stat().st_size / 1e6:.1f} MB")
    return 0
