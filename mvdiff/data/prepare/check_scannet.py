"""Look at every file of ScanNet scenes in one pass and name all that is wrong: a part of `mvdiff data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mvdiff.data.images import IMAGE_SUFFIXES, image_size, read_depth
from mvdiff.data.matterport3d import read_caption
from mvdiff.data.prepare.problems import CheckReport, Problem, Progress, collect, problem_of
from mvdiff.data.prepare.scenes import find_scenes
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.scannet_files import (
    KEY_FRAMES,
    VALID_FRAMES,
    numbers_in,
    read_intrinsics,
    read_key_frames,
    read_pose,
    read_valid_frames,
)


@dataclass
class _Found:
    """What was found in a scene: image sizes by path, problems, counts of what is no problem, captions read."""

    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    captions: int = 0


def check_scannet(report: CheckReport, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Check every scene of a folder; a pose that is not finite is counted, and a problem where a list names it."""
    scenes = find_scenes(report.root)
    for scene in scenes:
        split = scene.parent.name if scene.parent.name in ("train", "test") else "no split"
        report.panoramas[split] = report.panoramas.get(split, 0) + 1

    def results() -> Iterator[tuple[dict[Path, tuple[int, int]], int, list[Problem]]]:
        for found in pool.map(_check_scene, scenes):
            report.notes += found.notes
            yield found.sizes, found.captions, found.problems

    collect(report, results(), len(scenes), progress)


def _check_scene(folder: Path) -> _Found:
    found = _Found()
    missing = [folder / sub for sub in ("color", "depth", "pose") if not (folder / sub).is_dir()]
    if missing:
        found.problems = [Problem("missing folder", path) for path in missing]
        return found
    scene = ScanNetScene(folder)
    _check_names(folder, found)
    lists = _check_lists(folder, found)
    numbers = sorted({number for sub in ("color", "depth", "pose") for number in numbers_in(folder / sub)})
    unusable = {number: _check_frame(scene, number, found) for number in numbers}
    _check_sizes(folder, found)
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
        path = scene.file("prompt", number)
        if path.exists():
            wrong = problem_of(lambda path=path: read_caption(path), path, "caption", "")
            found.problems += wrong
            found.captions += not wrong
        elif number in set(captioned):
            found.problems.append(Problem("missing caption", path, f"run `mvdiff data caption {folder}`"))
        else:
            found.notes["frame between key frames without caption"] += 1
    return found


def _check_names(folder: Path, found: _Found) -> None:
    """Name folders of files with zero-padded numbers, which are not read, and a scene without any colour image."""
    for kind, suffixes in (("color", IMAGE_SUFFIXES), ("depth", (".png",)), ("pose", (".txt",))):
        padded = sorted(
            path.name
            for path in (folder / kind).iterdir()
            if path.suffix in suffixes and _is_number(path.stem) and str(int(path.stem)) != path.stem
        )
        if padded:
            example = Path(padded[0])
            details = f"{len(padded)}, such as {example}, are not read; rename them to <i>{example.suffix}"
            details += f", {example} to {int(example.stem)}{example.suffix}"
            found.problems.append(Problem("zero-padded names", folder / kind, details))
        elif kind == "color" and not numbers_in(folder / kind):
            names = ", ".join(f"<i>{suffix}" for suffix in suffixes)
            found.problems.append(Problem("no colour images", folder / kind, f"it must hold frames named {names}"))


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdecimal()


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


def _check_frame(scene: ScanNetScene, number: int, found: _Found) -> str:
    """Decode a frame's files; return why the frame is not usable, or ""."""
    reasons = []

    def attempt(read, path: Path, noun: str) -> None:
        wrong = problem_of(read, path, noun, f"frame {number}")
        found.problems.extend(wrong)
        reasons.extend(problem.kind for problem in wrong)

    color, depth, pose = (scene.file(kind, number) for kind in ("color", "depth", "pose"))

    def read_depth_map() -> None:
        values = read_depth(depth)
        found.sizes[depth] = (values.shape[1], values.shape[0])
        if not values.any():
            found.notes["depth image without any depth"] += 1
            reasons.append("no depth at all")

    def read_matrix() -> None:
        if not np.isfinite(read_pose(pose)).all():
            found.notes["pose that is not finite"] += 1
            reasons.append("pose is not finite")

    attempt(lambda: found.sizes.__setitem__(color, image_size(color)), color, "colour")
    attempt(read_depth_map, depth, "depth")
    attempt(read_matrix, pose, "pose")
    return ", ".join(reasons)


def _check_sizes(folder: Path, found: _Found) -> None:
    """Name images of another size than most of their kind in the scene, and intrinsics made for another size."""
    for kind in ("color", "depth"):
        sizes = {path: size for path, size in found.sizes.items() if path.parent == folder / kind}
        if not sizes:
            continue
        usual = Counter(sizes.values()).most_common(1)[0][0]
        found.problems += [
            Problem("wrong size", path, f"{width}x{height}; others of the scene are {usual[0]}x{usual[1]}")
            for path, (width, height) in sizes.items()
            if (width, height) != usual
        ]
        if kind == "depth":
            path = folder / "intrinsic" / "intrinsic_depth.txt"
            read = partial(read_intrinsics, path, height=usual[1], width=usual[0])
            found.problems += problem_of(read, path, "intrinsics", "")
