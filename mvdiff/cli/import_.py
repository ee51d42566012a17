"""`mvdiff import erp|cubemap|views`: sample folders of the pictures that another method made."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mvdiff.cli.command import UNFINISHED, Command, done, plural, tally, typed

SUMMARY = "turn another method's pictures into samples, to score them"
_SHOWN = 10
"""Most ids that are named in a note."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Pictures, and where the samples go."""

    dir: Path = field(kw_only=False)
    """folder of the pictures, at any depth"""
    out: Path
    """folder that receives one sample folder per sample"""
    rig: Path | None = None
    """JSON file with the cameras, in the format of the entry "rig" in sample.json; for views, that of "cameras" as well
    (default: the paper's ring of 8 views of 90 degrees; 512 x 512 pixels where they are cut out of panoramas)"""
    prompts: Path | None = None
    """file of prompts by sample id, as generate reads it: .json, .jsonl, or a text file whose lines are counted from 0
    (default: prompts beside the pictures)"""
    ids: str | None = None
    """regular expression that is searched in each picture's path below DIR, without the ending; its group id, or the
    first one, is the sample's id, and group view or face, or the second one, the number of a view or the name of a
    face. Pictures that it does not match are left out (default: the path is the id; docs/evaluate.md)"""
    method: str = "imported"
    """name of the method, for sample.json"""
    overwrite: bool = False
    """import complete samples again"""
    num_workers: int = 2
    """processes that import; 0 imports in the main process"""
    max_pixels: int | None = None
    """maximum number of pixels (width x height) in a picture (default: 178956970)"""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ArgumentTypeError(f"--num_workers must be at least 0; got {self.num_workers}")
        if not self.method.strip():
            raise ArgumentTypeError("--method must be a name; got an empty one")


def run(kind: str, options: ImportOptions) -> int:
    """Import; return the exit status, 3 where something could not be imported."""
    from mvdiff.cli.out_files import make_folder
    from mvdiff.cli.progress import progress_of
    from mvdiff.cli.rig_files import read_cameras
    from mvdiff.data.counts import check_counts
    from mvdiff.data.importing.pictures import find_pictures
    from mvdiff.files.writing import check_apart
    from mvdiff.pipelines.importing import import_samples, picture_reader
    from mvdiff.pipelines.prompt_files import read_prompts

    check_counts(max_pixels=options.max_pixels)
    check_apart("--out", options.out, {"DIR": options.dir}, inside=True)
    found = find_pictures(options.dir, kind, options.ids)
    reader = picture_reader(kind, found.root, *read_cameras(options.rig), max_pixels=options.max_pixels)
    prompts = None if options.prompts is None else read_prompts(options.prompts)
    make_folder(options.out)
    how = {"prompts": prompts, "method": options.method, "overwrite": options.overwrite}
    with progress_of("importing") as progress:
        report = import_samples(found, reader, options.out, **how, num_workers=options.num_workers, progress=progress)
    for name, reason in report.left_out.items():
        print(f"left out {name}: {reason}")
    for sample_id, doubt in report.doubts.items():
        print(f"warning: {sample_id}: {doubt}")
    _note(found.unmatched, "picture", "not matched by --ids")
    _note(report.without_prompt, "sample", "without a prompt, which clip_score needs (--prompts)")
    _note(report.unused_prompts, "prompt", "without pictures")
    _note(
        report.older,
        "sample folder",
        f"in {options.out} not from these pictures, which mvdiff evaluate would score (remove what does not belong "
        "there, or give another --out)",
    )
    imported = report.written + report.skipped
    left_out = f", {len(report.left_out)} left out" if report.left_out else ""
    if not imported:
        print(f"mvdiff import {kind}: error: no sample could be imported{left_out}.", file=sys.stderr)
        return UNFINISHED
    done(
        f"{options.out}: {tally(report.written, report.skipped, 'sample')}{left_out}",
        typed("mvdiff", "evaluate", "--generated", options.out, "--out", "results.json"),
    )
    return UNFINISHED if report.left_out else 0


def _note(names: list[str], noun: str, what: str) -> None:
    if names:
        more = ", ..." if len(names) > _SHOWN else ""
        print(f"note: {plural(len(names), noun)} {what}: {', '.join(names[:_SHOWN])}{more}")


_WRITES = (
    " Writes a folder per sample into --out: <i>.png for each view{panorama}, and sample.json. A rerun skips complete "
    "samples. Names what it leaves out, and exits with 3 if there is anything."
)
_PANORAMA = ", the panorama as panorama.png"
COMMANDS = (
    Command(
        name="import erp",
        summary="cut views out of equirectangular panoramas",
        description="Cut the rig's views out of equirectangular panoramas, twice as wide as high, by the sampler of "
        "the data modules. Of a crop with GPano metadata, what it does not show is marked as unknown."
        + _WRITES.format(panorama=_PANORAMA),
        example="mvdiff import erp their_panoramas --out theirs",
        settings=(ImportOptions,),
        run=partial(run, "erp"),
    ),
    Command(
        name="import cubemap",
        summary="cut views out of the six faces of cubes",
        description="Cut the rig's views out of cube faces by the sampler of the data modules. Faces are named as in "
        "Matterport3D, by words or letters (front, f), or lie in one picture, a cross or a strip. Warns of faces that "
        "do not continue each other." + _WRITES.format(panorama=_PANORAMA),
        example="mvdiff import cubemap their_faces --out theirs",
        settings=(ImportOptions,),
        run=partial(run, "cubemap"),
    ),
    Command(
        name="import views",
        summary="take perspective views as they are",
        description="Take the views of each sample, named <id>_<view> or <id>/<view>, with the cameras of a rig."
        + _WRITES.format(panorama=""),
        example="mvdiff import views their_views --out theirs",
        settings=(ImportOptions,),
        run=partial(run, "views"),
    ),
)
