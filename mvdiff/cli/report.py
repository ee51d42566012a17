"""`mvdiff report`: one page of sample folders, scores and meshes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Sources and page."""

    dir: tuple[Path, ...] = field(kw_only=False)
    """a folder of sample folders, one sample folder, the output folder of mvdiff test, or a results.json of mvdiff
    evaluate; give several to compare them"""
    out: Path | None = None
    """the page (default: report.html in the first DIR)"""
    names: tuple[str, ...] | None = None
    """names of the DIRs in the page, one per DIR (default: the names of their folders)"""
    title: str | None = None
    """heading (default: the names)"""
    max_samples: int = 12
    """show at most the first N samples"""
    max_views: int = 16
    """show at most N frames of a scene, evenly spaced"""
    mesh: tuple[Path, ...] = ()
    """further .glb or .ply files to show, in addition to those found in DIR"""
    rig: Path | None = None
    """JSON file with the cameras, in the format of the entry "rig" in sample.json; needed for sample folders of the
    2023 release, which store no cameras"""


def run(options: ReportOptions) -> int:
    """Write the page and print what it holds; return the exit status, 3 where a sample or mesh was left out."""
    from mvdiff.cli.out_files import check_out, make_folder
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.files.writing import check_apart
    from mvdiff.report import write_page
    from mvdiff.report.sample_page import gather
    from mvdiff.report.sources import open_sources

    first = options.dir[0]
    out = options.out or (first if first.is_dir() else first.parent) / "report.html"
    check_out(out, ".html")
    check_apart("--out", out, {"DIR": options.dir, "--mesh": options.mesh, "--rig": options.rig})
    sources = open_sources(options.dir, options.names, read_rig(options.rig))
    content = gather(sources, options.mesh, options.max_samples, options.max_views)
    title = options.title or " and ".join(source.method.name for source in sources)
    make_folder(out.parent)
    write_page(out, content.page(title))
    for problem in content.problems:
        print(f"left out {problem}")
    parts = [f"{content.num_shown} of {plural(content.num_samples, 'sample')}"] if content.num_samples else []
    parts += [f"{plural(len(content.meshes), 'scene')} in 3D"] if content.meshes else []
    parts += ["scores"] if content.tables else []
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    done(f"{out}: {', '.join(parts)}; {size}", typed("xdg-open", out) + " (or open it in any browser)")
    return UNFINISHED if content.problems else 0


COMMANDS = (
    Command(
        name="report",
        summary="one page of samples, scores and meshes, methods side by side",
        description="Write one self-contained HTML file, --out, with a 360-degree viewer for panoramas, "
        "strips of views, scores, and meshes in 3D. With several DIRs, shows the samples they have in common side by "
        "side. Exits with 3 if a sample or mesh is left out.",
        example="mvdiff report out other --names mine theirs",
        settings=(ReportOptions,),
        run=run,
    ),
)
