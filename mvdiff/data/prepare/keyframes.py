"""Select key frames by overlap, and list the usable frames: `mvdiff data keyframes`.

Consecutive key frames overlap by about a target share (65 % in the paper). Selection is greedy: the next key frame is
the last frame that still overlaps the current one by the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.agreement import scene_agreement
from mvdiff.data.frame_files import KEY_FRAMES, VALID_FRAMES, read_key_frames, read_valid_frames
from mvdiff.data.layouts import Source, find_recordings, open_recording
from mvdiff.data.prepare.linked_copy import output_folder
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.resizing import resize_depths
from mvdiff.files.paths import existing, expanded
from mvdiff.files.writing import whole_folder, write_whole
from mvdiff.geometry.depth import (
    DEFAULT_DEPTH_TOLERANCE,
    depth_at,
    depths_agree,
    known_depths,
    project_points,
    unproject,
)
from mvdiff.geometry.sampling import cell_centres

Item, Result = TypeVar("Item"), TypeVar("Result")

OVERLAP = 0.65
"""Overlap of consecutive key frames in the paper."""
MIN_DEPTH = 0.2
"""Least share of pixels with a depth in a usable frame (own choice)."""
LEAST_OVERLAP = 0.3
"""Key frames that overlap less do not attend to each other (docs/checkpoints.md); such pairs are reported."""
_SIZE = 256  # longer side, in pixels, of the depth maps to compare
_SAMPLES = 64  # number of sampled pixels per row


class View(NamedTuple):
    """A frame's number, depth map [H, W] in metres and camera K [3, 3], R [3, 3], t [3]."""

    number: int
    depths: Tensor
    K: Tensor
    R: Tensor
    t: Tensor


@dataclass
class SceneKeyFrames:
    """Usable frames and key frames of a scene."""

    path: Path
    num_frames: int = 0  # frames with a colour image
    valid_frames: list[int] = field(default_factory=list)  # numbers of the usable frames
    unusable: Counter[str] = field(default_factory=Counter)  # counts of the other frames by reason
    key_frames: list[int] = field(default_factory=list)  # numbers of the key frames
    overlaps: list[float] = field(default_factory=list)  # overlap of each consecutive pair of key frames
    problem: str = ""  # reason why no lists were written
    kept: bool = False  # True if both lists existed and were kept
    kept_list: str = ""  # name of the list that existed and was kept, if only one did
    agreement: str = ""  # measured agreement of depths and poses

    @property
    def num_apart(self) -> int:
        """Number of consecutive pairs of key frames that overlap by less than `LEAST_OVERLAP`."""
        return sum(overlap < LEAST_OVERLAP for overlap in self.overlaps)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path}: {self.problem}"
        if self.kept:
            return f"{self.path}: lists exist" + (f"; {self.agreement}" if self.agreement else "")
        text = f"{self.path}: {self.num_frames} frames, {len(self.valid_frames)} valid, {len(self.key_frames)} key"
        if self.overlaps:
            mean = sum(self.overlaps) / len(self.overlaps)
            text += f", overlap {mean:.2f} ({min(self.overlaps):.2f} to {max(self.overlaps):.2f})"
        if self.num_apart:
            text += f", {self.num_apart} pairs below {LEAST_OVERLAP}"
        text += "".join(f", {count} x {reason}" for reason, count in sorted(self.unusable.items()))
        text += f"; {self.agreement}" if self.agreement else ""
        return text + (f"; kept the existing {self.kept_list}" if self.kept_list else "")


def view_overlap(source: View, target: View) -> float:
    """Return the share of the source's pixels with known depth that are visible in the target (own derivation).

    Pixels without depth, and pixels that project to a target pixel without depth, are ignored, whereas
    `mvdiff.geometry.overlap_matrix` counts them as invisible. Real recordings lack a third of their depths, so no two
    frames would then overlap by 65 %. Both agree if all depths are known.
    """
    height, width = target.depths.shape
    stride = max(1, source.depths.shape[-1] // _SAMPLES)
    sampled = slice(stride // 2, None, stride)
    xy = cell_centres(*source.depths.shape, 1)[sampled, sampled]
    depth, has_depth = known_depths(source.depths[sampled, sampled])
    points = unproject(xy, depth, source.K, source.R, source.t)
    target_xy, z, inside = project_points(points, target.K, target.R, target.t, height, width)
    target_depth = depth_at(target.depths[None], torch.zeros(z.shape, dtype=torch.long), target_xy)
    judged = has_depth & ~(inside & (target_depth == 0))
    visible = judged & inside & depths_agree(z, target_depth, DEFAULT_DEPTH_TOLERANCE)
    return visible.sum().item() / max(1, judged.sum().item())


def two_way_overlap(first: View, second: View) -> float:
    """Return the smaller `view_overlap` of the two directions."""
    return min(view_overlap(first, second), view_overlap(second, first))


def find_key_frames(
    scene: RecordingSource, overlap: float = OVERLAP, min_depth: float = MIN_DEPTH, numbers: Iterable[int] | None = None
) -> SceneKeyFrames:
    """Select the key frames of a scene, without writing them.

    Args:
        scene: The scene; its lists of frames are ignored.
        overlap: Target overlap in (0, 1). Following frames are skipped while they overlap the current key frame by at
            least this share in both directions; the last of them, or else the very next frame, becomes the next key
            frame. The last usable frame becomes a key frame if it shows at least half as much new as a step does, that
            is if it overlaps the key frame before by at most (1 + overlap) / 2.
        min_depth: Least share of pixels with a depth in a usable frame, in (0, 1).
        numbers: Frame numbers to consider, ascending; None: all frames with a colour image.

    Returns:
        The lists; `problem` is set if no frame is usable or no pair of key frames overlaps.

    Raises:
        ValueError: A setting is out of range, or the intrinsics are malformed.
        FileNotFoundError: The intrinsics do not exist.
    """
    _check_settings(overlap, min_depth)
    found = SceneKeyFrames(scene.path, len(scene.frames))
    key: View | None = None
    last: View | None = None  # last frame that overlaps the key frame by the target
    last_overlap = 1.0

    def add(view: View) -> None:
        nonlocal key, last
        if key is not None:
            found.overlaps.append(two_way_overlap(key, view))
        found.key_frames.append(view.number)
        key, last = view, None

    for view in _usable_views(scene, scene.frames if numbers is None else numbers, min_depth, found):
        if key is None:
            add(view)
            continue
        with_key = two_way_overlap(key, view)
        if with_key < overlap and last is not None:
            add(last)
            with_key = two_way_overlap(key, view)
        if with_key >= overlap:
            last, last_overlap = view, with_key
        else:
            add(view)
    if last is not None and last_overlap <= (1 + overlap) / 2:
        add(last)
    if found.num_apart == len(found.overlaps) > 0:
        found.problem = (
            f"no two of its {len(found.key_frames)} key frames overlap by {LEAST_OVERLAP}: poses, intrinsics and "
            f"depths (read as {scene.depth_units_per_metre:g} a metre, {scene.layout} layout) may not belong together"
        )
    return found


def _find_valid_frames(scene: RecordingSource, min_depth: float, key_frames: list[int]) -> SceneKeyFrames:
    """List the usable frames of a scene with known key frames."""
    found = SceneKeyFrames(scene.path, len(scene.frames), key_frames=key_frames)
    for _ in _usable_views(scene, scene.frames, min_depth, found):
        pass
    return found


def _check_settings(overlap: float, min_depth: float) -> None:
    for name, value in (("overlap", overlap), ("min_depth", min_depth)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1; got {value}.")


def _usable_views(
    scene: RecordingSource, numbers: Iterable[int], min_depth: float, found: SceneKeyFrames
) -> Iterator[View]:
    """Yield the usable frames in order; record their numbers, and the reasons of the others, in `found`."""
    smaller = max(1, max(scene.depth_size) / _SIZE)
    size = tuple(round(side / smaller) for side in scene.depth_size)
    for number in numbers:
        problem = scene.problem(number)
        if problem is None:
            try:
                depths = scene.stored_depths(number)
            except ValueError:
                problem = ("broken depth", "")
            else:
                share = float((depths > 0).double().mean())
                problem = None if share >= min_depth else (f"depth on less than {min_depth:.0%} of pixels", "")
        if problem is not None:
            found.unusable[problem[0]] += 1
            continue
        found.valid_frames.append(number)
        yield View(number, resize_depths(depths, *size), scene.intrinsics(*size, number), *scene.pose(number))
    if not found.valid_frames:
        found.problem = f"no frame is usable: {dict(found.unusable)}"


def write_lists(folder: Path, found: SceneKeyFrames, sync: bool = True) -> None:
    """Write a scene's two lists, except the one to keep; both or none."""
    with whole_folder(folder.resolve(), sync=sync) as new:
        if found.kept_list != VALID_FRAMES:
            np.save(new / VALID_FRAMES, np.array(found.valid_frames, dtype=np.int64))
        if found.kept_list != KEY_FRAMES:
            write_whole(new / KEY_FRAMES, "".join(f"{number}\n" for number in found.key_frames), sync=False)


def key_frames_of(
    root: str | Path,
    overlap: float = OVERLAP,
    min_depth: float = MIN_DEPTH,
    out: str | Path | None = None,
    overwrite: bool = False,
    num_workers: int = 1,
    progress: Callable[[SceneKeyFrames, int], None] | None = None,
    source: Source | None = None,
    force: bool = False,
) -> list[SceneKeyFrames]:
    """Write key_frame_0.6.txt and valid_frames.npy for every scene in a folder.

    Args:
        root: A scene, a folder of scenes, or a folder with train/ and test/.
        overlap: See `find_key_frames`.
        min_depth: See `find_key_frames`.
        out: Folder to write to instead; it becomes a data set of the same scenes with links to their frames.
        overwrite: Replace existing lists. Otherwise existing lists are kept and missing ones are made: all usable
            frames become valid frames, and key frames are selected among the listed valid frames.
        num_workers: Number of processes.
        progress: Called with each scene's result and the number of scenes.
        source: Reader of the scenes; None: layouts are detected.
        force: Write lists of scenes whose depths, poses and colours disagree, too.

    Returns:
        One result per scene; nothing is written for a scene with a `problem`. Scenes with both lists are compared, too.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder holds no scene, or a setting is out of range.
    """
    scenes = find_recordings(root, source)
    _check_settings(overlap, min_depth)
    root, out = expanded(root), None if out is None else expanded(out)
    job = partial(_write_scene, root, out, overlap, min_depth, overwrite, source, force)
    results = []
    for found in map_in_processes(job, scenes, num_workers):
        results.append(found)
        if progress is not None:
            progress(found, len(scenes))
    return results


def _write_scene(
    root: Path,
    out: Path | None,
    overlap: float,
    min_depth: float,
    overwrite: bool,
    source: Source | None,
    force: bool,
    scene: Path,
) -> SceneKeyFrames:
    folder = scene
    try:
        folder = output_folder(scene, root, out)
        kept = [name for name in (KEY_FRAMES, VALID_FRAMES) if not overwrite and existing(folder / name).is_file()]
        if len(kept) == 2:
            found = SceneKeyFrames(folder, kept=True)
            _judge(found, open_recording(folder, source, on_broken="skip"), force)
            return found
        if kept == [KEY_FRAMES]:
            found = _find_valid_frames(open_recording(folder, source), min_depth, read_key_frames(folder / KEY_FRAMES))
        else:
            numbers = read_valid_frames(folder / VALID_FRAMES) if kept else None
            found = find_key_frames(open_recording(folder, source), overlap, min_depth, numbers)
        found.kept_list = kept[0] if kept else ""
        if found.valid_frames:
            _judge(found, open_recording(folder, source), force)
        if not found.problem:
            write_lists(folder, found)
    except (OSError, ValueError) as error:  # the other scenes go on
        return SceneKeyFrames(folder, problem=str(error))
    return found


def _judge(found: SceneKeyFrames, scene: RecordingSource, force: bool) -> None:
    """Measure the agreement of the usable frames; set `problem` if they disagree, or clear it to write lists anyway."""
    agreement = scene_agreement(scene, found.valid_frames or None)
    measured = agreement.consistency
    found.agreement = "; ".join(
        [f"depth agreement {measured.agreement:.2f} in {measured.num_pairs} pairs", *agreement.warning_texts]
    )
    problem = "; ".join(filter(None, (found.problem, agreement.problem)))
    if problem and force:
        done = "kept" if found.kept else "written"
        found.agreement, found.problem = f"{found.agreement}; {done} despite {problem}", ""
    elif agreement.problem:
        found.problem = problem if found.kept else f"{problem}; --force writes the lists anyway"


def map_in_processes(job: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield `job(item)` for each item in order, in processes of one thread each if `num_workers` is above 1."""
    if num_workers <= 1:
        yield from map(job, items)
        return
    with ProcessPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(job, items)
