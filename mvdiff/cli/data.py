"""`mvdiff data check|split|import-sens|keyframes|caption|shard|cache-text|toyworld`: make and check data sets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mvdiff.cli.command import Command, done, plural, typed
from mvdiff.cli.data_cache_text import CACHE_TEXT
from mvdiff.cli.data_shard import SHARD, check_shard_set
from mvdiff.cli.opening import DataReader

SUMMARY = "make, split, caption and check data sets"


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DataReader):
    """Data set."""

    dir: str = field(kw_only=False)
    """a folder of panoramas or of recordings, in any supported layout (docs/data.md), or a folder or address of
    shards"""
    num_workers: int = 8
    """files decoded, or shards read, in parallel"""
    max_pixels: int | None = None
    """maximum number of pixels (width x height) in a panorama's images (default: 178956970); for training, set
    data.max_pixels to the same value"""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(DataReader):
    """Data set and split."""

    dir: Path = field(kw_only=False)
    """a folder of panoramas or of recordings, in any supported layout (docs/data.md), or a raw download"""
    test_fraction: float = 0.1
    """share of the scenes (or images) kept for the test split"""
    test_scenes: Path | None = None
    """text file with the scenes (or images) to test on, one per line (default: drawn at random, see --seed)"""
    seed: int = 0
    """random seed for drawing the test scenes (or images)"""
    overwrite: bool = False
    """replace existing lists"""


@dataclass(frozen=True, kw_only=True)
class ImportSensOptions:
    """Recording and scene."""

    file: Path = field(kw_only=False)
    """the .sens file"""
    dir: Path = field(kw_only=False)
    """folder of the scene to write, such as scannet/train/scene0000_00"""
    every: int = 1
    """save every N-th frame"""


@dataclass(frozen=True, kw_only=True)
class KeyFrameOptions(DataReader):
    """Scenes and key frames."""

    dir: Path = field(kw_only=False)
    """a scene, a folder of scenes, or a folder with train/ and test/"""
    overlap: float = 0.65
    """desired overlap of consecutive key frames as a share of the frame, between 0 and 1 (exclusive)"""
    min_depth_share: float = 0.2
    """minimum share of pixels with depth in a usable frame, between 0 and 1 (exclusive)"""
    out: Path | None = None
    """write the lists into this folder instead, with links to the frames (default: DIR)"""
    overwrite: bool = False
    """replace existing lists"""
    num_workers: int = 1
    """scenes processed in parallel"""
    force: bool = False
    """also write lists for scenes whose depths, poses and colours disagree"""


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(DataReader):
    """Data set and captioning model."""

    dir: Path = field(kw_only=False)
    """a data set in any supported layout (docs/data.md), or a scene"""
    model: str = "Salesforce/blip2-opt-2.7b"
    """Hugging Face hub id or folder of an image-captioning model of the transformers library"""
    revision: str | None = None
    """branch, tag or commit of the model on the hub (default: of the default model, the commit that mvdiff records; of
    others, main)"""
    every: int | None = None
    """caption every N-th usable frame of a scene, instead of its key frames"""
    batch_size: int = 8
    """pictures captioned in parallel"""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, or one of several GPUs, such as cuda:1"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """weight precision; auto is bfloat16 on a GPU, else float32"""
    prompt: str = ""
    """text for the model to continue (default: none)"""
    max_new_tokens: int = 40
    """maximum caption length, in tokens"""
    view_size: int = 512
    """width and height of a panorama's views, in pixels"""
    max_pixels: int | None = None
    """maximum number of pixels (width x height) in a panorama's images (default: 178956970)"""
    overwrite: bool = False
    """replace existing captions"""


@dataclass(frozen=True, kw_only=True)
class ToyWorldOptions:
    """Toy world."""

    dir: Path = field(kw_only=False)
    """folder that receives the data sets"""
    rooms: int = 40
    """number of rooms"""
    seed: int = 0
    """random seed; each seed gives a different world"""
    size: int = 128
    """width and height of each face of a panorama, in pixels"""
    test_rooms: int | None = None
    """how many of --rooms form the test split (default: a fifth of them)"""
    num_frames: int = 60
    """frames per camera path; 0: no recordings"""
    arc_deg: float = 360.0
    """angle that each camera path covers, in degrees; smaller values put frames closer together"""
    num_workers: int = 1
    """rooms rendered in parallel"""


_SHOWN = 10
"""Most files that are named for a note."""


def check(options: CheckOptions) -> int:
    """Name everything broken; return the exit status, 1 where something is."""
    from mvdiff.cli.progress import progress_of
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.check import check_folders
    from mvdiff.data.shards.reading import holds_shards

    if holds_shards(options.dir):
        return check_shard_set(options.dir, options.num_workers)

    with progress_of("checking") as progress:
        reports = check_folders(
            options.dir, options.num_workers, progress, Source.of_option(options.data), max_pixels=options.max_pixels
        )
    for report in reports:
        for problem in report.problems:
            print(problem)
        for warning in report.warnings:
            print(f"warning: {warning}")
        for path in report.cut_captions[:_SHOWN]:
            print(f"note: {path}: longer than the text encoder's context, the rest is cut off")
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in report.sizes.most_common())
        lists = ", ".join(f"{count} in {name}" for name, count in report.panoramas.items()) or "none"
        notes = "".join(f"; {count} x {kind}" for kind, count in sorted(report.notes.items()))
        agreement = [found.agreement for found in report.agreement.values() if found.agreement == found.agreement]
        if agreement:
            pairs = sum(found.num_pairs for found in report.agreement.values())
            mean = f"{sum(agreement) / len(agreement):.3f} (lowest {min(agreement):.3f})"
            notes += f"; depth agreement {mean} in {pairs} pairs of frames of {plural(len(agreement), 'scene')}"
        print(
            f"{report.root}: {report.layout} layout; {report.noun}: {lists}; images: {sizes}; captions: "
            f"{report.captions}{notes}"
        )
        counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.counts.items()))
        print(f"{plural(len(report.problems), 'problem')}: {counts}" if report.problems else "no problems")
    broken = any(report.problems for report in reports)
    first = reports[0]
    config = "pano.yaml" if first.noun == "panoramas" else "depth_stage2.yaml"
    again, doctor = (
        ("mvdiff", "data", "check", options.dir),
        ("mvdiff", "doctor", "--config", config, "--data.root", first.root),
    )
    done(
        f"{options.dir}: {'fix the problems listed above' if broken else 'sound'}",
        typed(*(again if broken else doctor)),
    )
    return int(broken)


def split(options: SplitOptions) -> int:
    """Write the lists; return the exit status."""
    from mvdiff.data.layouts import Source
    from mvdiff.data.panorama_files import not_read
    from mvdiff.data.prepare.split import split_folder
    from mvdiff.files.text import read_lines

    names = None
    if options.test_scenes:
        names = [line for line in read_lines(options.test_scenes) if line]
    how = options.test_fraction, names, options.seed, options.overwrite
    report = split_folder(options.dir, *how, source=Source.of_option(options.data))
    for archive in report.unpacked:
        print(f"unpacked {archive}")
    for panorama in report.left_out:
        print(f"left out, not all six faces are there: {panorama}")
    for panorama in report.copies:
        print(f"left out, a copy of a listed panorama: {panorama}")
    for path in report.unread:
        print(f"left out: {path}: {not_read(path)}")
    for path in report.broken_links:
        print(f"left out, a broken link: {path}")
    done(
        f"{report.train} train and {report.test} test {report.noun}: {', '.join(map(str, report.files))}",
        typed("mvdiff", "data", "check", options.dir),
    )
    return 0


def import_recording(options: ImportSensOptions) -> int:
    """Write a recording as a scene; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import progress_of
    from mvdiff.data.prepare.sens import import_sens

    check_folder(options.dir, "DIR")
    with progress_of("frames") as progress:
        report = import_sens(options.file, options.dir, options.every, progress)
    done(
        f"{plural(report.saved, 'frame')} saved{_counted(report.kept, 'kept')}, of {report.total}: {options.dir}",
        typed("mvdiff", "data", "keyframes", options.dir),
    )
    return 0


def keyframes(options: KeyFrameOptions) -> int:
    """Write lists of key frames; return the exit status, 1 where a scene has none."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import progress_bar
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.keyframes import key_frames_of
    from mvdiff.files.writing import check_apart

    if options.out is not None:
        check_folder(options.out)
        if options.out.resolve() != options.dir.resolve():  # the same: as without --out
            check_apart("--out", options.out, {"DIR": options.dir}, around=False, inside=True)
    with progress_bar() as bar:
        task = bar.add_task("scenes", total=None)

        def say(scene, total: int) -> None:
            bar.update(task, advance=1, total=total)
            print(scene)

        chosen = (options.overlap, options.min_depth_share, options.out, options.overwrite, options.num_workers)
        how = {"progress": say, "source": Source.of_option(options.data), "force": options.force}
        scenes = key_frames_of(options.dir, *chosen, **how)
    failed, kept = sum(bool(scene.problem) for scene in scenes), sum(scene.kept for scene in scenes)
    overlaps = [overlap for scene in scenes for overlap in scene.overlaps]
    text = f"; overlap of {plural(len(overlaps), 'pair')}: {sum(overlaps) / len(overlaps):.3f}" if overlaps else ""
    done(
        f"{plural(len(scenes), 'scene')}{_counted(kept, 'with existing lists')}{_counted(failed, 'failed')}{text}",
        typed("mvdiff", "data", "caption", options.out or options.dir),
        typed("mvdiff", "data", "check", options.out or options.dir),
    )
    return int(failed > 0)


def caption(options: CaptionOptions) -> int:
    """Caption; return the exit status, 1 where something could not be captioned."""
    from mvdiff.cli.progress import progress_of
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.caption import caption_folder
    from mvdiff.data.prepare.captioner import Captioner

    names = ("model", "revision", "device", "dtype", "prompt", "max_new_tokens")
    captioner = Captioner(*(getattr(options, name) for name in names))
    how = (options.every, options.batch_size, options.view_size, options.overwrite)
    with progress_of("captions") as progress:
        report = caption_folder(
            options.dir, captioner, *how, progress, Source.of_option(options.data), options.max_pixels
        )
    for failure in report.failed:
        print(failure)
    done(
        f"{plural(report.written, 'caption')} written{_counted(report.kept, 'kept')}"
        f"{_counted(len(report.failed), 'failed')}: {options.dir}",
        typed("mvdiff", "data", "check", options.dir),
    )
    return int(bool(report.failed))


def toyworld(options: ToyWorldOptions) -> int:
    """Write a toy world; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import progress_bar
    from mvdiff.data.toyworld import write_toyworld

    settings = asdict(options)
    root = settings.pop("dir")
    check_folder(root, "DIR")
    with progress_bar() as bar:
        task = bar.add_task("rooms", total=options.rooms)
        write_toyworld(root, **settings, progress=lambda index: bar.advance(task))
    parts = "mp3d_skybox" + (" and scannet" if options.num_frames else "")
    done(f"{plural(options.rooms, 'room')} in {root}: {parts}", typed("mvdiff", "data", "check", root))
    return 0


def _counted(count: int, state: str) -> str:
    return f", {count} {state}" if count else ""


COMMANDS = (
    Command(
        name="data check",
        summary="list every broken or missing file of a data set",
        description="Decode every image and read every caption, pose and list of a folder of panoramas or of "
        "recordings, and name every broken or missing file, empty caption and wrong size. Writes nothing; exits with 1 "
        "if anything is wrong. Of shards, every checksum is verified.",
        example="mvdiff data check data/mp3d_skybox",
        settings=(CheckOptions,),
        run=check,
    ),
    Command(
        name="data split",
        summary="write train and test lists; also unpacks a raw Matterport3D download",
        description="Write train.npy and test.npy (train.txt and test.txt for equirectangular images and recordings) "
        "into DIR. Matterport3D is split by scene; archives of a raw download are unpacked first.",
        example="mvdiff data split data/mp3d_skybox --test_fraction 0.1",
        settings=(SplitOptions,),
        run=split,
    ),
    Command(
        name="data import-sens",
        summary="convert a ScanNet recording (.sens) to a scene",
        description="Convert a .sens recording (version 4) to a scene: write color/, depth/, pose/ and intrinsic/ into "
        "the folder DIR. Existing frames are kept, so an interrupted import can be rerun.",
        example="mvdiff data import-sens scene0000_00.sens scannet/train/scene0000_00",
        settings=(ImportSensOptions,),
        run=import_recording,
    ),
    Command(
        name="data keyframes",
        summary="choose the key frames of scenes",
        description="Write two lists per scene: key_frame_0.6.txt, key frames chosen so that consecutive ones overlap "
        "by --overlap (the file keeps this name whatever the value), and valid_frames.npy, the frames with a finite "
        "pose and enough depth. Exits with 1 if a scene has no key frames, or if its depths, poses and colours "
        "disagree.",
        example="mvdiff data keyframes scannet/train",
        settings=(KeyFrameOptions,),
        run=keyframes,
    ),
    Command(
        name="data caption",
        summary="caption panoramas or scenes",
        description="Caption the views of panoramas (8 views, 45 degrees apart) and the key frames of scenes with an "
        "image-captioning model of the transformers library, and write a text file per caption beside the data. "
        "Existing captions are kept, so an interrupted run can be rerun. Exits with 1 if something could not be "
        "captioned.",
        example="mvdiff data caption scannet/train --model Salesforce/blip2-opt-2.7b",
        settings=(CaptionOptions,),
        run=caption,
    ),
    Command(
        name="data toyworld",
        summary="write a data set of small procedural rooms",
        description="Write ray-traced rooms with captions: DIR/mp3d_skybox holds panoramas and DIR/scannet recordings.",
        example="mvdiff data toyworld toy --rooms 10",
        settings=(ToyWorldOptions,),
        run=toyworld,
    ),
    SHARD,
    CACHE_TEXT,
)
