"""Open what a user gives as samples: sample folders, or a plain folder of images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mvdiff.data.importing.suggest import guess_kind
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.sources import FolderSource
from mvdiff.files.images import IMAGE_SUFFIXES
from mvdiff.files.paths import existing, expanded, kind_of, same_name, visible, walk
from mvdiff.files.text import read_text
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import scan_samples
from mvdiff.samples.folders import DEPTH_NAME, GIVEN_NAME
from mvdiff.samples.pixels import read_png

NOTE = (
    "each image counts as one sample of one view. FID, KID, Inception Score and sharpness need no more; clip_score "
    "needs the prompt of <name>.png in <name>.txt. overlap_psnr, border_ratio, given and caption_agreement need sample "
    "folders: <i>.png for each view, and sample.json with cameras and prompts (docs/evaluate.md)."
)


def open_folder(root: str | Path, rig: Rig | None = None) -> FolderSource:
    """Open sample folders at or below a root or, if there are none, the images that lie directly in it.

    Raises:
        FileNotFoundError: The root is not a folder.
        ValueError: The root holds neither complete samples nor images.
    """
    root = expanded(root)
    complete, incomplete = scan_samples(root)
    is_sample = any(kind_of(root / name) == "folder" for name in (DEPTH_NAME, GIVEN_NAME))
    if complete or is_sample or set(incomplete) - {root} or not image_files(root):
        return FolderSource(root, rig)
    return ImageFolder(root)


def image_files(folder: Path) -> list[Path]:
    """List the images that lie directly in a folder, sorted by name, with broken links, which count as unreadable."""
    return [path for path in visible(folder, *IMAGE_SUFFIXES) if kind_of(path) != "folder"]


def _nested_images(root: Path) -> list[str]:
    """List the images in the folders below a root, relative to it."""
    paths = (folder / name for folder, _, names in walk(root) if folder != root for name in names)
    return [path.relative_to(root).as_posix() for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]


@dataclass
class ImageFolder(FolderSource):
    """Images that lie directly in a folder, each a sample of one view; unreadable and nested ones are counted.

    A sample is named after its file, without the ending unless two files differ in nothing else. Its prompt is the text
    of `<name>.txt`, if there is one.
    """

    def __post_init__(self) -> None:
        self.complete, self.incomplete = image_files(self.root), []
        self.nested = _nested_images(self.root)
        self._stems = Counter(same_name(path.stem) for path in self.complete)

    def has_natural(self) -> bool:
        """Return False: images have no ground truth beside them."""
        return False

    def needs_rig(self) -> bool:
        """Return False: an image counts as one view, whose camera no metric reads."""
        return False

    def _sample(self, index: int) -> ScoredSample | dict[str, str]:
        path = self.complete[index]
        try:
            images, caption = read_png(path)[None], existing(path.with_suffix(".txt"))
            prompts = [] if kind_of(caption) == "nothing" else [read_text(caption).strip()]
        except (ValueError, OSError) as error:
            return {"folder": str(path), "reason": str(error)}
        name = same_name(path.stem if max(self._stems.values()) == 1 else path.name)
        return ScoredSample(name, images, torch.eye(3)[None], torch.eye(3)[None], prompts)

    def describe(self) -> dict[str, Any]:
        """Describe the folder, its images that were not scored, and as what `mvdiff import` may take them."""
        about = {"nested": self.nested, "kind": "images", "note": NOTE, "import_as": guess_kind(self.root)}
        return super().describe() | about
