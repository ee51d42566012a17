"""Look at every file of a data set in one pass and name all that is wrong: `mvdiff data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.data.equirectangular import list_images, read_names, read_prompts
from mvdiff.data.images import image_size
from mvdiff.data.matterport3d import CAPTION_DEGREES, caption_path, read_caption, read_split
from mvdiff.data.panoramas import EmptyCaptionError
from mvdiff.data.prepare.layout import detect_layout, find_skyboxes

Progress = Callable[[int, int], None]
"""Called with (panoramas done, panoramas in all)."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: `kind` ("missing face", ...), the file, and details."""

    kind: str
    path: Path
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}" + (f" ({self.details})" if self.details else "")


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        layout: "matterport3d" or "equirectangular".
        root: Folder of the lists.
        panoramas: Panoramas per list.
        sizes: Images per (width, height).
        captions: Captions read.
        problems: All that is wrong.
    """

    layout: str
    root: Path
    panoramas: dict[str, int] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    captions: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """Number of problems of each kind."""
        return Counter(problem.kind for problem in self.problems)


def check_folder(root: str | Path, num_threads: int = 8, progress: Progress | None = None) -> CheckReport:
    """Decode every image and read every caption of a data set.

    Args:
        root: The data set's folder; the layout is found out.
        num_threads: Files decoded at once.
        progress: Called after each panorama.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has none of the known layouts.
    """
    layout, folder = detect_layout(root)
    report = CheckReport(layout, folder)
    check = _check_matterport3d if layout == "matterport3d" else _check_equirectangular
    with ThreadPoolExecutor(num_threads) as pool:
        check(report, pool, progress or (lambda done, total: None))
    report.problems.sort()
    return report


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
        sizes, problems = _image_sizes([root / face for face in row], "face", where)
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
                found = _problem_of(lambda path=path: read_caption(path), path, "caption", where)
                problems += found
                captions += not found
        return sizes, captions, problems

    sizes = _collect(report, pool.map(check, rows.items()), len(rows), progress)
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
        sizes, problems = _image_sizes([path], "image", names.get(path.stem, "in no list"))
        prompts = path.with_suffix(".json")
        found = _problem_of(lambda: read_prompts(prompts), prompts, "caption", "")
        return sizes, not found, problems + found

    sizes = _collect(report, pool.map(check, images.values()), len(images), progress)
    for path, (width, height) in sizes.items():
        if width != 2 * height:
            report.problems.append(Problem("wrong size", path, f"{width}x{height}; must be twice as wide as high"))


def _image_sizes(paths: list[Path], noun: str, where: str) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    """Decode images: (width, height) of the whole ones, problems of the others."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems: list[Problem] = []
    for path in paths:
        problems += _problem_of(lambda path=path: sizes.__setitem__(path, image_size(path)), path, noun, where)
    return sizes, problems


def _problem_of(read: Callable[[], object], path: Path, noun: str, where: str) -> list[Problem]:
    """Call `read`; return what was wrong with the file, if anything."""
    try:
        read()
    except FileNotFoundError:
        return [Problem(f"missing {noun}", path, where)]
    except EmptyCaptionError:
        return [Problem("empty caption", path, where)]
    except (ValueError, OSError) as error:
        return [Problem(f"broken {noun}", path, "; ".join(filter(None, (where, str(error.__cause__ or error)))))]
    return []


def _collect(report: CheckReport, results: Iterable, total: int, progress: Progress) -> dict[Path, tuple[int, int]]:
    """Gather the results of all panoramas into the report; return the size of every whole image."""
    sizes: dict[Path, tuple[int, int]] = {}
    for done, (found, captions, problems) in enumerate(results, start=1):
        sizes |= found
        report.captions += captions
        report.problems += problems
        progress(done, total)
    report.sizes = Counter(sizes.values())
    return sizes
