"""Names of sample folders and the files in them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import quote

from mvdiff.files.paths import is_hidden
from mvdiff.samples.record import RECORD_NAME

PANORAMA_NAME = "panorama.png"
CROPPED_STEM = "panorama_cropped"
CUBE_NAME = "cube"
DEPTH_NAME = "depth"
GIVEN_NAME = "given"
PROMPT_NAME = "prompt.txt"

logger = logging.getLogger(__name__)


def sample_folder(root: str | Path, sample_id: str) -> Path:
    """Return the folder of a sample; ids are percent-encoded, so slashes add no level and distinct ids stay distinct.

    Example:
        >>> sample_folder("out", "scene/pano 1").as_posix()
        'out/scene%2Fpano%201'
    """
    name = quote(str(sample_id), safe="")
    return Path(root) / ("%2E" + name[1:] if name.startswith(".") else name)


def is_complete(folder: str | Path) -> bool:
    """Return True if a folder holds a complete sample, that is, has a `sample.json`."""
    return (Path(folder) / RECORD_NAME).is_file()


def find_samples(root: str | Path) -> list[Path]:
    """List the complete sample folders at or below a root, sorted; log a warning about incomplete ones.

    Raises:
        FileNotFoundError: The root is not a folder.
    """
    complete, incomplete = scan_samples(root)
    if incomplete:
        logger.warning("%s: skipped %d incomplete sample folder(s), e.g. %s", root, len(incomplete), incomplete[0])
    return complete


def scan_samples(root: str | Path) -> tuple[list[Path], list[Path]]:
    """List the sample folders at or below a root as `(complete, incomplete)`, each sorted.

    A folder with `0.png` but neither `sample.json` nor `prompt.txt` (2023 release) is incomplete.

    Raises:
        FileNotFoundError: The root is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"sample root must be a folder; got {root}.")
    complete, incomplete = [], []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        if RECORD_NAME in names or ("0.png" in names and PROMPT_NAME in names):
            complete.append(Path(folder))
        elif "0.png" in names:
            incomplete.append(Path(folder))
        else:
            continue
        subfolders.clear()  # folders inside a sample belong to it
    return sorted(complete), sorted(incomplete)


def picture_files(folder: Path) -> list[Path]:
    """List the panorama of a sample folder and all pictures that were made of it."""
    names = [f"{stem}.*" for stem in ("panorama", CROPPED_STEM)] + [f"{CUBE_NAME}/*"]
    return [path for name in names for path in folder.glob(name)]


def numbered(folder: Path, suffix: str) -> list[Path]:
    """List the files `<number><suffix>` of a folder, sorted by number."""
    paths = [path for path in folder.glob(f"*{suffix}") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem))
