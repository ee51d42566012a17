"""Read every file of recordings and report all problems: part of `mvdiff data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mvdiff.data.agreement import NOT_REGISTERED, registration_problem, scene_agreement
from mvdiff.data.captions import read_caption
from mvdiff.data.frame_files import KEY_FRAMES, VALID_FRAMES, read_key_frames, read_valid_frames
from mvdiff.data.layouts import Source, recording_class, split_of
from mvdiff.data.prepare.problems import CheckReport, Found, Problem, Progress
from mvdiff.data.recordings import NOT_FINITE, Kind, RecordingSource
from mvdiff.files.depths import SATURATED
from mvdiff.files.images import read_counted_depth
from mvdiff.files.paths import existing, kind_of

SATURATED_DEPTH = f"depth image with {SATURATED}, read as no depth"
_Sizes = dict[tuple[Path, str, int], tuple[int, int]]
"""(width, height) by file, kind and frame: one file may hold several images."""


def check_recordings(
    report: CheckReport,
    scenes: Sequence[Path],
    source: Source | None,
    pool: ThreadPoolExecutor,
    progress: Progress,
    limit: int | None = None,
) -> None:
    """Check scenes and add the findings to `report`.

    A non-finite pose is counted, and is a problem only if a list names its frame. Depths, poses and colours that
    disagree are a problem, with the likely cause. A `limit` reads so many frames of the first scene of each split, key
    frames first.
    """
    by_split: dict[str, list[Path]] = {}
    for scene in scenes:
        by_split.setdefault(split_of(scene) or "no split", []).append(scene)
    report.panoramas |= {split: len(of_split) for split, of_split in by_split.items()}
    if limit is not None:
        scenes = [of_split[0] for of_split in by_split.values()]
    check = partial(_check_scene, source=source, limit=limit)
    report.collect(pool.map(check, scenes), len(scenes), progress)


def _check_scene(folder: Path, source: Source | None, limit: int | None) -> Found:
    found = Found()
    layout = recording_class(folder, source)
    if missing := layout.cls.missing_parts(folder):
        found.problems = [Problem(f"missing {'file' if path.suffix else 'folder'}", path) for path in missing]
        return found
    try:
        scene = layout(folder)
        found.problems += [Problem(*problem) for problem in scene.naming_problems()]
    except (FileNotFoundError, ValueError) as error:
        found.problems = [Problem("broken scene", folder, str(error))]
        return found
    lists = _check_lists(folder, found)
    all_numbers, key_frames = set(scene.frames_of_any_file()), set(lists.get(KEY_FRAMES, ()))
    numbers = sorted(sorted(all_numbers, key=lambda number: (number not in key_frames, number))[:limit])
    sizes: dict[str, _Sizes] = {"color": {}, "depth": {}}
    unusable = {number: _check_frame(scene, number, found, sizes) for number in numbers}
    _check_sizes(scene, numbers, found, sizes)
    for name, listed in lists.items():
        for number in listed:
            if number not in all_numbers:
                found.problems.append(Problem("listed frame does not exist", folder / name, f"frame {number}"))
            elif unusable.get(number):
                found.problems.append(
                    Problem("listed frame is not usable", folder / name, f"frame {number}: {unusable[number]}")
                )
    captioned = set(lists.get(KEY_FRAMES) or numbers)
    for number in numbers:
        path = scene.caption_file(number)
        if kind_of(path) != "nothing":
            found.read_caption(lambda path=path: read_caption(path), path)
        elif number in captioned:
            found.problems.append(Problem("missing caption", path, f"run `mvdiff data caption {folder}`"))
        else:
            found.notes["frame between key frames without caption"] += 1
    _check_agreement(layout(folder, on_broken="skip"), found)
    return found


def _check_agreement(scene: RecordingSource, found: Found) -> None:
    """Measure the agreement of depths, poses and colours; report what disagrees, and a scene without usable frames."""
    if aspects := registration_problem(scene):
        found.problems.append(Problem(NOT_REGISTERED, scene.path, aspects))
    try:
        numbers = scene.valid_frames
    except (FileNotFoundError, ValueError):  # a broken list is named above
        return
    if not numbers:
        if scene.frames:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(scene.unusable.items()))
            found.problems.append(Problem("no usable frame", scene.path, reasons or "none is listed"))
        return
    try:
        agreement = scene_agreement(scene)
    except (FileNotFoundError, ValueError):  # frames that cannot be read are named above
        found.notes["scene whose depths and poses could not be compared"] += 1
        return
    found.agreement[scene.path] = agreement.consistency
    problems = [Problem(kind, scene.path, details) for kind, details in agreement.problems]
    found.problems += [problem for problem in problems if problem not in found.problems]
    found.warnings += [Problem(kind, scene.path, details) for kind, details in agreement.warnings]


def _check_lists(folder: Path, found: Found) -> dict[str, list[int]]:
    """Read the existing lists of frames; report a missing list of key frames."""
    lists: dict[str, list[int]] = {}
    for name, read in ((KEY_FRAMES, read_key_frames), (VALID_FRAMES, read_valid_frames)):
        path = existing(folder / name)
        if path.is_file():
            found.attempt(lambda path=path, name=name, read=read: lists.update({name: read(path)}), path, "list")
        elif name == KEY_FRAMES:
            found.problems.append(Problem("missing list", path, f"run `mvdiff data keyframes {folder}`"))
    return lists


def _check_frame(scene: RecordingSource, number: int, found: Found, sizes: dict[str, _Sizes]) -> str:
    """Decode a frame's files; return the reasons why it is unusable, or ""."""
    reasons = []

    def attempt(kind: Kind, noun: str, read: Callable[[Path], Any]) -> None:
        try:
            path = scene.file(kind, number)
        except FileNotFoundError as error:
            found.problems.append(Problem(f"missing {noun}", scene.path, f"frame {number}: {error}"))
            reasons.append(f"missing {noun}")
            return
        if problem := found.attempt(lambda: read(path), path, noun, f"frame {number}"):
            reasons.append(problem.kind)

    def read_image(path: Path) -> None:
        height, width = scene.load_image(number).shape[1:]
        sizes["color"][path, "color", number] = (width, height)
        found.note_profile(path)

    def read_depths(path: Path) -> None:
        if type(scene).load_depths is RecordingSource.load_depths:
            values, num_saturated = read_counted_depth(path, scene.depth_units_per_metre)
        else:
            values, num_saturated = scene.load_depths(number), 0
        if num_saturated:
            found.notes[SATURATED_DEPTH] += 1
        sizes["depth"][path, "depth", number] = (values.shape[1], values.shape[0])
        if not values.any():
            found.notes["depth image without any depth"] += 1
            reasons.append("no depth at all")

    def read_pose(path: Path) -> None:
        if not np.isfinite(scene.checked_pose(number)).all():
            found.notes["pose that is not finite"] += 1
            reasons.append(NOT_FINITE)

    attempt("color", "colour", read_image)
    attempt("depth", "depth", read_depths)
    attempt("pose", "pose", read_pose)
    return ", ".join(reasons)


def _check_sizes(scene: RecordingSource, numbers: list[int], found: Found, sizes: dict[str, _Sizes]) -> None:
    """Report images whose size differs from most of their kind in the scene, and intrinsics for another size."""
    for of_kind in sizes.values():
        found.sizes |= of_kind
        if of_kind:
            usual = Counter(of_kind.values()).most_common(1)[0][0]
            found.problems += [
                Problem("wrong size", path, f"{width}x{height}; others of the scene are {usual[0]}x{usual[1]}")
                for (path, *_), (width, height) in of_kind.items()
                if (width, height) != usual
            ]
    if sizes["depth"]:
        width, height = Counter(sizes["depth"].values()).most_common(1)[0][0]
        of_frames = Found()
        for number in numbers:
            read = partial(scene.intrinsics, height, width, number)
            of_frames.attempt(read, scene.file("intrinsics", number), "intrinsics")
        found.problems += dict.fromkeys(of_frames.problems)
