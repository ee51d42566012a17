"""What a check of a data set reports, and how files are tried one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.data.captions import EmptyCaptionError
from mvdiff.data.images import image_size
from mvdiff.geometry.consistency import Consistency

Progress = Callable[[int, int], None]
"""Called with (panoramas or scenes done, those in all)."""


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
        layout: "matterport3d", "equirectangular", or a layout of recordings.
        root: Folder of the lists, or of train/ and test/.
        panoramas: Panoramas per list, or scenes per split.
        sizes: Images per (width, height), depth images included.
        captions: Captions read.
        problems: All that is wrong.
        notes: What is as it may be but worth a number, counted by kind.
        noun: "panoramas" or "scenes".
        agreement: Scenes whose depths and poses could be compared, and how far they agree.
    """

    layout: str
    root: Path
    panoramas: dict[str, int] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    captions: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    noun: str = "panoramas"
    agreement: dict[Path, Consistency] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        """Number of problems of each kind."""
        return Counter(problem.kind for problem in self.problems)


def image_sizes(paths: list[Path], noun: str, where: str) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    """Decode images: (width, height) of the whole ones, problems of the others."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems: list[Problem] = []
    for path in paths:
        problems += problem_of(lambda path=path: sizes.__setitem__(path, image_size(path)), path, noun, where)
    return sizes, problems


def problem_of(read: Callable[[], object], path: Path, noun: str, where: str) -> list[Problem]:
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


def collect(report: CheckReport, results: Iterable, total: int, progress: Progress) -> dict:
    """Gather the results of all panoramas into the report; return the (width, height) of every whole image."""
    sizes = {}
    for done, (found, captions, problems) in enumerate(results, start=1):
        sizes |= found
        report.captions += captions
        report.problems += problems
        progress(done, total)
    report.sizes = Counter(sizes.values())
    return sizes
