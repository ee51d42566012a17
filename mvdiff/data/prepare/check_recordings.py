"""Look at every file of recordings in one pass and name all that is wrong: a part of `mvdiff data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mvdiff.data.captions import read_caption
from mvdiff.data.frame_files import KEY_FRAMES, VALID_FRAMES, read_key_frames, read_valid_frames
from mvdiff.data.layouts import Source, recording_class
from mvdiff.data.prepare.problems import CheckReport, Problem, Progress, collect, problem_of
from mvdiff.data.recorded_frames import SceneFrames
from mvdiff.data.recordings import NOT_FINITE, Kind, RecordingSource
from mvdiff.geometry.consistency import Consistency, check_consistency

_Sizes = dict[tuple[Path, str, int], tuple[int, int]]
"""(width, height) by file, kind and frame: one file may hold several images."""


@dataclass
class _Found:
    """Contents of a scene: sizes of images, problems, counts of what is no problem, captions read."""

    sizes: _Sizes = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    agreement: Consistency | None = None


def check_recordings(
    report: CheckReport, scenes: Sequence[Path], source: Source | None, pool: ThreadPoolExecutor, progress: Progress
) -> None:
    """Check scenes; a pose that is not finite is counted, and a problem where a list names it.

    How far depths and poses agree is measured and reported, and is no problem.
    """
    for scene in scenes:
        split = scene.parent.name if scene.parent.name in ("train", "test") else "no split"
        report.panoramas[split] = report.panoramas.get(split, 0) + 1

    def results() -> Iterator[tuple[_Sizes, int, list[Problem]]]:
        for scene, found in zip(scenes, pool.map(partial(_check_scene, source=source), scenes), strict=True):
            report.notes += found.notes
            if found.agreement is not None:
                report.agreement[scene] = found.agreement
            yield found.sizes, found.captions, found.problems

    collect(report, results(), len(scenes), progress)


def _check_scene(folder: Path, source: Source | None) -> _Found:
    found = _Found()
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
    numbers = scene.frames_of_any_file()
    sizes: dict[str, _Sizes] = {"color": {}, "depth": {}}
    unusable = {number: _check_frame(scene, number, found, sizes) for number in numbers}
    _check_sizes(scene, numbers, found, sizes)
    for name, listed in lists.items():
        for number in listed:
            if number not in unusable:
                found.problems.append(Problem("listed frame does not exist", folder / name, f"frame {number}"))
            elif unusable[number]:
                found.problems.append(
                    Problem("listed frame is not usable", folder / name, f"frame {number}: {unusable[number]}")
                )
    captioned = lists.get(KEY_FRAMES) or numbers
    for number in numbers:
        path = scene.caption_file(number)
        if path.exists():
            wrong = problem_of(lambda path=path: read_caption(path), path, "caption", "")
            found.problems += wrong
            found.captions += not wrong
        elif number in set(captioned):
            found.problems.append(Problem("missing caption", path, f"run `mvdiff data caption {folder}`"))
        else:
            found.notes["frame between key frames without caption"] += 1
    found.agreement = _agreement(layout(folder, on_broken="skip"))
    return found


def _agreement(scene: RecordingSource) -> Consistency | None:
    """Compare usable frames with each other; None where some cannot be read, which is named elsewhere."""
    try:
        frames = SceneFrames(scene)
        return check_consistency(frames, frames.poses())
    except (FileNotFoundError, ValueError):
        return None


def _check_lists(folder: Path, found: _Found) -> dict[str, list[int]]:
    """Read the lists that are there; that of key frames must be."""
    lists: dict[str, list[int]] = {}
    for name, read in ((KEY_FRAMES, read_key_frames), (VALID_FRAMES, read_valid_frames)):
        path = folder / name
        if path.is_file():
            found.problems += problem_of(
                lambda path=path, read=read: lists.__setitem__(path.name, read(path)), path, "list", ""
            )
        elif name == KEY_FRAMES:
            found.problems.append(Problem("missing list", path, f"run `mvdiff data keyframes {folder}`"))
    return lists


def _check_frame(scene: RecordingSource, number: int, found: _Found, sizes: dict[str, _Sizes]) -> str:
    """Decode a frame's files; return why the frame is not usable, or ""."""
    reasons = []

    def attempt(kind: Kind, noun: str, read: Callable[[Path], Any]) -> None:
        try:
            path = scene.file(kind, number)
        except FileNotFoundError as error:
            found.problems.append(Problem(f"missing {noun}", scene.path, f"frame {number}: {error}"))
            reasons.append(f"missing {noun}")
            return
        wrong = problem_of(lambda: read(path), path, noun, f"frame {number}")
        found.problems.extend(wrong)
        reasons.extend(problem.kind for problem in wrong)

    def read_image(path: Path) -> None:
        height, width = scene.load_image(number).shape[1:]
        sizes["color"][path, "color", number] = (width, height)

    def read_depths(path: Path) -> None:
        values = scene.load_depths(number)
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


def _check_sizes(scene: RecordingSource, numbers: list[int], found: _Found, sizes: dict[str, _Sizes]) -> None:
    """Name images of another size than most of their kind in the scene, and intrinsics made for another size."""
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
        usual = Counter(sizes["depth"].values()).most_common(1)[0][0]
        problems = [
            problem
            for number in numbers
            for path in [scene.file("intrinsics", number)]
            for problem in problem_of(lambda n=number: scene.intrinsics(usual[1], usual[0], n), path, "intrinsics", "")
        ]
        found.problems += dict.fromkeys(problems)
