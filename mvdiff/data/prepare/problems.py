"""Findings of a data set check, and the check of single files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdiff.data.captions import EmptyCaptionError
from mvdiff.files.images import DecodedImage, ImageError, UnusableImage, profile_ignored
from mvdiff.geometry.consistency import Consistency
from mvdiff.text_context import CLIP_LENGTH, clip_context

_CUT_CAPTION = f"caption of more than {CLIP_LENGTH} tokens (the prefix not counted), cut in training"

Progress = Callable[[int, int], None]
"""Called with (panoramas or scenes done, total)."""


@dataclass(frozen=True, order=True)
class Problem:
    """A problem: its kind ("missing face", ...), the file, and details."""

    kind: str
    path: Path
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}" + (f" ({self.details})" if self.details else "")


@dataclass
class Findings:
    """Findings in one or several panoramas or scenes."""

    captions: int = 0  # captions read
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)  # counts by kind of findings that are not problems
    warnings: list[Problem] = field(default_factory=list)  # what may be wrong
    agreement: dict[Path, Consistency] = field(default_factory=dict)  # agreement of depths and poses by scene
    cut_captions: list[Path] = field(default_factory=list)  # files with a caption that is cut in training

    def attempt(self, read: Callable[[], object], path: Path, noun: str, where: str = "") -> Problem | None:
        """Call `read`; record and return the problem with the file, if any."""
        try:
            read()
            return None
        except FileNotFoundError:
            problem = Problem(f"missing {noun}", path, where)
        except EmptyCaptionError:
            problem = Problem("empty caption", path, where)
        except (ValueError, OSError) as error:
            reason = error.reason if isinstance(error, ImageError) else str(error.__cause__ or error)
            state = "unusable" if isinstance(error, UnusableImage) else "broken"
            problem = Problem(f"{state} {noun}", path, "; ".join(filter(None, (where, reason))))
        self.problems.append(problem)
        return problem

    def read_caption(self, read: Callable[[], str | Mapping[Any, str]], path: Path, where: str = "") -> None:
        """Count a caption, or record the problem with it; note captions that the text encoder reads only in part."""
        texts: list[str] = []

        def keep() -> None:
            captions = read()
            texts.extend([captions] if isinstance(captions, str) else captions.values())

        self.captions += self.attempt(keep, path, "caption", where) is None
        longer = [text for text in texts if len(text.encode()) > CLIP_LENGTH - 2]  # a token has a byte or more
        if longer and (cut := clip_context().cut(longer)):
            self.notes[_CUT_CAPTION] += len(cut)
            self.cut_captions.append(path)


@dataclass
class Found(Findings):
    """Findings in one panorama or scene, with the (width, height) of its intact images by file."""

    sizes: dict = field(default_factory=dict)

    def read_image(self, decode: Callable[[Path], DecodedImage], path: Path, noun: str, where: str) -> None:
        """Decode an image and record its size, or the problem with it."""
        self.attempt(lambda: self.sizes.update({path: decode(path).rgb.size}), path, noun, where)
        self.note_profile(path)

    def note_profile(self, path: Path) -> None:
        """Count an image that was decoded without its colour profile."""
        if profile_ignored(path):
            self.notes["colour profile that cannot be applied, ignored"] += 1


@dataclass(kw_only=True)
class CheckReport(Findings):
    """Findings in a data set; for `layout` and `root` see `mvdiff.data.prepare.layout.DataSet`."""

    layout: str
    root: Path
    panoramas: dict[str, int] = field(default_factory=dict)  # panoramas per list, or scenes per split
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # images per (width, height), with depth images
    noun: str  # "panoramas" or "scenes"

    @property
    def counts(self) -> Counter[str]:
        """Number of problems by kind."""
        return Counter(problem.kind for problem in self.problems)

    def collect(self, results: Iterable[Found], total: int, progress: Progress) -> dict:
        """Add the findings of all panoramas or scenes; return the (width, height) of intact images by file."""
        sizes = {}
        for done, found in enumerate(results, start=1):
            sizes |= found.sizes
            self.captions += found.captions
            self.problems += found.problems
            self.warnings += found.warnings
            self.notes += found.notes
            self.agreement |= found.agreement
            self.cut_captions += found.cut_captions
            progress(done, total)
        self.sizes = Counter(sizes.values())
        return sizes
