"""Open what a user gives as samples: sample folders, or a plain folder of images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mvdiff.eval.sources import FolderSource, ScoredSample
from mvdiff.files.paths import is_hidden
from mvdiff.files.text import read_text
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import scan_samples
from mvdiff.samples.folders import DEPTH_NAME, GIVEN_NAME
from mvdiff.samples.pixels import read_png

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of images, in lower case."""
NOTE = (
    "each image counts as one sample of one view. FID, KID, Inception Score and sharpness need no more; clip_score "
    "needs the prompt of <name>.png in <name>.txt. overlap_psnr, given and caption_agreement need sample folders: "
    "<i>.png for each view, and sample.json with cameras and prompts (docs/evaluate.md)."
)


def open_folder(root: str | Path, rig: Rig | None = None) -> FolderSource:
    """Open sample folders at or below a root or, if there are none, the images that lie directly in it.

    Raises:
        FileNotFoundError: The root is not a folder.
        ValueError: The root holds neither complete samples nor images.
    """
    root = Path(root)
    complete, incomplete = scan_samples(root)
    is_sample = any((root / name).is_dir() for name in (DEPTH_NAME, GIVEN_NAME))
    if complete or is_sample or set(incomplete) - {root} or not image_files(root):
        return FolderSource(root, rig)
    return ImageFolder(root)


def image_files(folder: Path) -> list[Path]:
    """List the images that lie directly in a folder, sorted by name."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_hidden(path.name))
    return sorted(path for path in paths if path.is_file())


@dataclass
class ImageFolder(FolderSource):
    """Images that lie directly in a folder, each a sample of one view; unreadable ones are skipped and counted.

    A sample is named after its file, without the ending unless two files differ in nothing else. Its prompt is the text
    of `<name>.txt`, if there is one.
    """

    def __post_init__(self) -> None:
        self.complete, self.incomplete = image_files(self.root), []
        self._stems = Counter(path.stem for path in self.complete)

    def has_natural(self) -> bool:
        """Return False: images have no ground truth beside them."""
        return False

    def _sample(self, index: int) -> ScoredSample | dict[str, str]:
        path = self.complete[index]
        try:
            images, caption = read_png(path)[None], path.with_suffix(".txt")
            prompts = [read_text(caption).strip()] if caption.is_file() else []
        except (ValueError, OSError) as error:
            return {"folder": str(path), "reason": str(error)}
        name = path.stem if max(self._stems.values()) == 1 else path.name
        return ScoredSample(name, images, torch.eye(3)[None], torch.eye(3)[None], prompts)

    def describe(self) -> dict[str, Any]:
        """Describe the folder and its unreadable images."""
        return super().describe() | {"kind": "images", "note": NOTE}
