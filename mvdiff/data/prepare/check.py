"""Read every file of a data set and report all problems: `mvdiff data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mvdiff.data.captions import read_caption
from mvdiff.data.counts import check_counts
from mvdiff.data.equirectangular import list_images, prompts_file, read_names, read_prompts
from mvdiff.data.layouts import Source
from mvdiff.data.matterport3d import caption_files, identity, read_split, split_lists
from mvdiff.data.panorama_files import decode_panorama, not_read, unread_images
from mvdiff.data.panoramas import PanoramaSource
from mvdiff.data.prepare.check_recordings import check_recordings
from mvdiff.data.prepare.layout import DataSet, find_layouts, find_skyboxes
from mvdiff.data.prepare.problems import CheckReport, Found, Problem, Progress
from mvdiff.files.images import decode_opaque
from mvdiff.files.paths import below, existing, expanded
from mvdiff.geometry.cameras import RingRig

_Entry = TypeVar("_Entry")


def check_folder(
    root: str | Path, num_threads: int = 8, progress: Progress | None = None, source: Source | None = None
) -> CheckReport:
    """Decode every image and read every caption and pose of a data set, in the first of its layouts.

    Args:
        root: Folder of the data set.
        num_threads: Number of files decoded in parallel.
        progress: Called after each panorama or scene.
        source: Reader of the data set; None: layouts are detected.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has no known layout, or `num_threads` is below 1.
    """
    return check_folders(root, num_threads, progress, source)[0]


def check_folders(
    root: str | Path,
    num_threads: int = 8,
    progress: Progress | None = None,
    source: Source | None = None,
    limit: int | None = None,
    max_pixels: int | None = None,
) -> list[CheckReport]:
    """Check a folder in each of its layouts; see `check_folder`.

    Args:
        root: The data set's folder.
        num_threads: Files decoded at once.
        progress: Called after each panorama or scene.
        source: Reader of the data set.
        limit: Read only the files of the first `limit` panoramas of each list, or of as many frames of the first scene
            of each split; the lists themselves are checked whole.
        max_pixels: Largest width x height of a panorama's images, see `mvdiff.files.images`.
    """
    check_counts(num_threads=num_threads, limit=limit, max_pixels=max_pixels)
    if source is not None and not source.reads_recordings:
        data_sets = [DataSet(source.cls.__name__, expanded(root))]
    else:
        data_sets = find_layouts(root, source)
    return [_check(data_set, num_threads, progress, source, limit, max_pixels) for data_set in data_sets]


def _check(
    data_set: DataSet,
    num_threads: int,
    progress: Progress | None,
    source: Source | None,
    limit: int | None,
    max_pixels: int | None,
) -> CheckReport:
    report = CheckReport(layout=data_set.layout, root=data_set.root, noun="scenes" if data_set.scenes else "panoramas")
    progress = progress or (lambda done, total: None)
    with ThreadPoolExecutor(num_threads) as pool:
        if data_set.scenes:
            check_recordings(report, data_set.scenes, source, pool, progress, limit)
        elif source is not None:
            _check_panoramas(report, source, pool, progress, limit, max_pixels)
        elif data_set.layout == "matterport3d":
            _check_matterport3d(report, pool, progress, limit, max_pixels)
        else:
            _check_equirectangular(report, pool, progress, limit, max_pixels)
    report.problems.sort()
    return report


def _check_panoramas(
    report: CheckReport,
    source: Source,
    pool: ThreadPoolExecutor,
    progress: Progress,
    limit: int | None,
    max_pixels: int | None,
) -> None:
    """Cut small views from every panorama of a user's source and read its captions."""
    items, how = [], {} if max_pixels is None else {"max_pixels": max_pixels}
    for split in ("train", "test"):
        try:
            panoramas = source(report.root, split, on_broken="error", **how)
        except (FileNotFoundError, ValueError) as error:
            report.problems.append(Problem("broken split", report.root, f"{split}: {error}"))
            continue
        report.panoramas[split] = len(panoramas)
        items += [(panoramas, index, split) for index in range(len(panoramas))[:limit]]
    rig = RingRig(height=64, width=64)
    K, R = rig.cameras()

    def check(item: tuple[PanoramaSource, int, str]) -> Found:
        panoramas, index, split = item
        found, path = Found(), report.root / panoramas.sample_id(index)
        found.attempt(lambda: panoramas.views(index, K, R, rig.height, rig.width), path, "panorama", split)
        found.read_caption(lambda: panoramas.captions(index), path, split)
        return found

    report.collect(pool.map(check, items), len(items), progress)


def _listed(
    report: CheckReport,
    paths: Iterable[Path],
    read: Callable[[Path], list],
    identity: Callable[[Any], tuple[str, str]] | None = None,
) -> Iterator[tuple[Any, str]]:
    """Yield (entry, position) of split lists; report broken and missing lists and repeated entries.

    `identity` returns what identifies an entry of rows; None: an entry is a name, which identifies itself.
    """
    first: dict[Any, str] = {}
    for path in map(existing, paths):
        if not path.is_file():
            report.problems.append(Problem("missing list", path, f"run `mvdiff data split {report.root}`"))
            continue
        try:
            entries = read(path)
        except (ValueError, FileNotFoundError) as error:
            report.problems.append(Problem("broken list", path, str(error)))
            continue
        report.panoramas[path.name] = len(entries)
        for number, entry in enumerate(entries):
            where = path.name if identity is None else f"{path.name} row {number}"
            key = entry if identity is None else identity(entry)
            if key in first:
                name = entry if identity is None else entry[0]
                report.problems.append(Problem("listed twice", report.root / name, f"{first[key]} and {where}"))
            first.setdefault(key, where)
            yield entry, where


def _first_of_each(entries: Mapping[_Entry, str], limit: int | None) -> dict[_Entry, str]:
    """Return the first entries of each list; `entries` says where each stands, as `_listed` does."""
    by_list: dict[str, list[_Entry]] = {}
    for entry, where in entries.items():
        by_list.setdefault(where.partition(" row ")[0], []).append(entry)
    return {entry: entries[entry] for listed in by_list.values() for entry in listed[:limit]}


def _check_matterport3d(
    report: CheckReport, pool: ThreadPoolExecutor, progress: Progress, limit: int | None, max_pixels: int | None
) -> None:
    root, decode = report.root, partial(decode_opaque, max_pixels=max_pixels)
    lists = {existing(path) for path in (root / "train.npy", root / "test.npy")}
    rows: dict[tuple[str, ...], str] = {}
    for row, where in _listed(report, sorted(lists.union(split_lists(root))), read_split, identity):
        rows.setdefault(row, where)
    if not split_lists(root):
        panoramas, incomplete, copies = find_skyboxes(root)
        report.notes += Counter({"further copy of a panorama": len(copies)} if copies else {})
        rows = {row: scene for scene in panoramas for row in panoramas[scene]}
        report.panoramas["without a list"] = len(rows)
        report.problems += [Problem("missing face", Path(pano), "a panorama needs six") for pano in incomplete]

    rows = _first_of_each(rows, limit)

    def check(item: tuple[tuple[str, ...], str]) -> Found:
        row, where = item
        found = Found()
        for face in row:
            found.read_image(decode, below(root, face), "face", where)
        if [problem.kind for problem in found.problems] == 6 * ["missing face"]:
            found.problems = [Problem("listed path does not exist", root / face, where) for face in row]
        found.problems += [
            Problem("wrong face order", root / face, f"{where}, column {k}")
            for k, face in enumerate(row)
            if f"_skybox{k}_" not in face
        ]
        for path in caption_files(root, row[0]).values():
            found.read_caption(lambda path=path: read_caption(path), path, where)
        return found

    sizes = report.collect(pool.map(check, rows.items()), len(rows), progress)
    usual = report.sizes.most_common(1)[0][0] if report.sizes else (0, 0)
    for path, (width, height) in sizes.items():
        if width != height:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; faces are square"))
        elif (width, height) != usual:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; others are {usual[0]}x{usual[1]}"))


def _check_equirectangular(
    report: CheckReport, pool: ThreadPoolExecutor, progress: Progress, limit: int | None, max_pixels: int | None
) -> None:
    root, decode = report.root, partial(decode_panorama, max_pixels=max_pixels)
    images = list_images(root)
    report.problems += [Problem("unread image", path, not_read(path)) for path in unread_images(root, images)]
    names: dict[str, str] = {}
    for name, where in _listed(report, (root / "train.txt", root / "test.txt"), partial(read_names, images=images)):
        if name not in images:
            report.problems.append(Problem("listed path does not exist", root / name, where))
        names.setdefault(name, where)
    if unlisted := len(images.keys() - names.keys()):
        report.panoramas["without a list"] = unlisted

    chosen = _first_of_each({name: names.get(name, "in no list") for name in images}, limit)

    def check(item: tuple[str, str]) -> Found:
        name, where = item
        found, path, prompts = Found(), images[name], prompts_file(images[name])
        found.read_image(decode, path, "image", where)
        found.read_caption(lambda: read_prompts(prompts), prompts)
        return found

    for path, (width, height) in report.collect(pool.map(check, chosen.items()), len(chosen), progress).items():
        if width != 2 * height:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; must be twice as wide as high"))
