"""Look at every file of a data set in one pass and name all that is wrong: `mvdiff data check`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mvdiff.data.captions import read_caption
from mvdiff.data.equirectangular import list_images, read_names, read_prompts
from mvdiff.data.layouts import Source
from mvdiff.data.matterport3d import CAPTION_DEGREES, caption_path, read_split
from mvdiff.data.panoramas import PanoramaSource
from mvdiff.data.prepare.check_recordings import check_recordings
from mvdiff.data.prepare.layout import DataSet, find_layouts, find_skyboxes
from mvdiff.data.prepare.problems import CheckReport, Problem, Progress, collect, image_sizes, problem_of
from mvdiff.geometry.cameras import RingRig


def check_folder(
    root: str | Path, num_threads: int = 8, progress: Progress | None = None, source: Source | None = None
) -> CheckReport:
    """Decode every image and read every caption (and pose) of a data set; in the first of its layouts.

    Args:
        root: The data set's folder; the layout is found out.
        num_threads: Files decoded at once.
        progress: Called after each panorama or scene.
        source: What reads the data set; by default the layouts that it has.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has none of the known layouts, or `num_threads` is less than 1.
    """
    return check_folders(root, num_threads, progress, source)[0]


def check_folders(
    root: str | Path, num_threads: int = 8, progress: Progress | None = None, source: Source | None = None
) -> list[CheckReport]:
    """Check a folder as `check_folder` does, in each layout that it has."""
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1; got {num_threads}. Leave it out for the default.")
    if source is not None and not source.reads_recordings:
        data_sets = [DataSet(source.cls.__name__, Path(root))]
    else:
        data_sets = find_layouts(root, source)
    return [_check(data_set, num_threads, progress, source) for data_set in data_sets]


def _check(data_set: DataSet, num_threads: int, progress: Progress | None, source: Source | None) -> CheckReport:
    report = CheckReport(data_set.layout, data_set.root, noun="scenes" if data_set.scenes else "panoramas")
    progress = progress or (lambda done, total: None)
    with ThreadPoolExecutor(num_threads) as pool:
        if data_set.scenes:
            check_recordings(report, data_set.scenes, source, pool, progress)
        elif source is not None:
            _check_panoramas(report, source, pool, progress)
        elif data_set.layout == "matterport3d":
            _check_matterport3d(report, pool, progress)
        else:
            _check_equirectangular(report, pool, progress)
    report.problems.sort()
    return report


def _check_panoramas(report: CheckReport, source: Source, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Cut small views of every panorama of a user's source, and read its captions."""
    items = []
    for split in ("train", "test"):
        try:
            panoramas = source(report.root, split, on_broken="error")
        except (FileNotFoundError, ValueError) as error:
            report.problems.append(Problem("broken split", report.root, f"{split}: {error}"))
            continue
        report.panoramas[split] = len(panoramas)
        items += [(panoramas, index, split) for index in range(len(panoramas))]
    rig = RingRig(height=64, width=64)
    K, R = rig.cameras()

    def check(item: tuple[PanoramaSource, int, str]) -> tuple[dict, int, list[Problem]]:
        panoramas, index, split = item
        path = report.root / panoramas.sample_id(index)
        views = problem_of(lambda: panoramas.views(index, K, R, rig.height, rig.width), path, "panorama", split)
        captions = problem_of(lambda: panoramas.captions(index), path, "caption", split)
        return {}, not captions, views + captions

    collect(report, pool.map(check, items), len(items), progress)


def _check_matterport3d(report: CheckReport, pool: ThreadPoolExecutor, progress: Progress) -> None:
    root = report.root
    lists = sorted(root.glob("*.npy"))
    rows: dict[tuple[str, ...], str] = {}
    for name in ("train.npy", "test.npy"):
        if root / name not in lists:
            report.problems.append(Problem("missing list", root / name, f"run `mvdiff data split {root}`"))
    for path in lists:
        try:
            listed = read_split(path)
        except (ValueError, FileNotFoundError) as error:
            report.problems.append(Problem("broken list", path, str(error)))
            continue
        report.panoramas[path.name] = len(listed)
        for number, row in enumerate(listed):
            where = f"{path.name} row {number}"
            if row in rows:
                report.problems.append(Problem("listed twice", root / row[0], f"{rows[row]} and {where}"))
            rows.setdefault(row, where)
    if not lists:
        found, incomplete = find_skyboxes(root)
        rows = {row: scene for scene in found for row in found[scene]}
        report.panoramas["without a list"] = len(rows)
        report.problems += [Problem("missing face", Path(pano), "not all six are there") for pano in incomplete]

    def check(item: tuple[tuple[str, ...], str]) -> tuple[dict[Path, tuple[int, int]], int, list[Problem]]:
        row, where = item
        sizes, problems = image_sizes([root / face for face in row], "face", where)
        if sum(problem.kind == "missing face" for problem in problems) == 6:
            problems = [Problem("listed path does not exist", p.path, where) for p in problems]
        problems += [
            Problem("wrong face order", root / face, f"{where}, column {k}")
            for k, face in enumerate(row)
            if f"_skybox{k}_" not in face
        ]
        captions = 0
        for key in (*CAPTION_DEGREES, "up", "down"):
            path = caption_path(root, row[0], key)
            if not isinstance(key, str) or path.exists():
                found = problem_of(lambda path=path: read_caption(path), path, "caption", where)
                problems += found
                captions += not found
        return sizes, captions, problems

    sizes = collect(report, pool.map(check, rows.items()), len(rows), progress)
    usual = report.sizes.most_common(1)[0][0] if report.sizes else (0, 0)
    for path, (width, height) in sizes.items():
        if width != height:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; faces are square"))
        elif (width, height) != usual:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; others are {usual[0]}x{usual[1]}"))


def _check_equirectangular(report: CheckReport, pool: ThreadPoolExecutor, progress: Progress) -> None:
    root = report.root
    images = list_images(root)
    names: dict[str, str] = {}
    for list_name in ("train.txt", "test.txt"):
        path = root / list_name
        if not path.is_file():
            report.problems.append(Problem("missing list", path, f"run `mvdiff data split {root}`"))
            continue
        try:
            listed = read_names(path)
        except ValueError as error:
            report.problems.append(Problem("broken list", path, str(error)))
            continue
        report.panoramas[list_name] = len(listed)
        for name in listed:
            if name in names:
                report.problems.append(Problem("listed twice", root / name, f"{names[name]} and {list_name}"))
            if name not in images:
                report.problems.append(Problem("listed path does not exist", root / name, list_name))
            names.setdefault(name, list_name)
    if unlisted := len(images.keys() - names.keys()):
        report.panoramas["without a list"] = unlisted

    def check(path: Path) -> tuple[dict[Path, tuple[int, int]], int, list[Problem]]:
        sizes, problems = image_sizes([path], "image", names.get(path.stem, "in no list"))
        prompts = path.with_suffix(".json")
        found = problem_of(lambda: read_prompts(prompts), prompts, "caption", "")
        return sizes, not found, problems + found

    sizes = collect(report, pool.map(check, images.values()), len(images), progress)
    for path, (width, height) in sizes.items():
        if width != 2 * height:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; must be twice as wide as high"))
