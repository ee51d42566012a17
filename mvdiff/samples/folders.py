"""Names of sample folders and the files in them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from mvdiff.files.paths import expanded, own_name, same_name, walk
from mvdiff.files.text import read_json
from mvdiff.samples.ids import folder_name
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

    Raises:
        ValueError: The id cannot name a folder, see `mvdiff.samples.ids.check_id`.

    Example:
        >>> sample_folder("out", "scene/pano 1").as_posix()
        'out/scene%2Fpano%201'
    """
    return Path(root) / folder_name(str(sample_id))


def is_complete(folder: str | Path) -> bool:
    """Return True if a folder holds a complete sample, that is, has a `sample.json`."""
    return (Path(folder) / RECORD_NAME).is_file()


def find_samples(root: str | Path) -> list[Path]:
    """List the complete sample folders at or below a root, sorted; log a warning about incomplete ones.

    Raises:
        FileNotFoundError: The root is not a folder.
        ValueError: Two samples have the same id.
    """
    complete, incomplete = scan_samples(root)
    if incomplete:
        logger.warning("%s: skipped %d incomplete sample folder(s), e.g. %s", root, len(incomplete), incomplete[0])
    return complete


def scan_samples(root: str | Path) -> tuple[list[Path], list[Path]]:
    """List the sample folders at or below a root as `(complete, incomplete)`, each sorted.

    A folder with `0.png` but neither `sample.json` nor `prompt.txt` (2023 release) is incomplete. Links are followed;
    hidden folders are left out.

    Raises:
        FileNotFoundError: The root is not a folder.
        ValueError: Two samples have the same id; the text names both folders.
    """
    root = expanded(root)
    if not root.is_dir():
        raise FileNotFoundError(f"sample root must be a folder; got {root}.")
    complete, incomplete = [], []
    for folder, subfolders, names in walk(root):
        if RECORD_NAME in names or ("0.png" in names and PROMPT_NAME in names):
            complete.append(folder)
        elif "0.png" in names:
            incomplete.append(folder)
        else:
            continue
        subfolders.clear()  # folders inside a sample belong to it
    _refuse_repeated_ids(root, sorted(complete))
    return sorted(complete), sorted(incomplete)


def _refuse_repeated_ids(root: Path, folders: Iterable[Path]) -> None:
    first: dict[str, Path] = {}
    for folder in folders:
        sample_id = _id_of(folder)
        if sample_id is None or first.setdefault(sample_id, folder) is folder:
            continue
        other = first[sample_id]
        raise ValueError(
            f"sample ids below {root} must be unique; got {sample_id!r} in {other} and in {folder}. "
            f"{_advice(other, folder)}"
        )


def _id_of(folder: Path) -> str | None:
    """Return the id of a sample folder; None where `sample.json` is damaged, which `read_sample` says."""
    if not is_complete(folder):
        return own_name(folder)
    try:
        values = read_json(folder / RECORD_NAME)
    except (ValueError, OSError):
        return None
    sample_id = values.get("sample_id") if isinstance(values, dict) else None
    return same_name(sample_id) if isinstance(sample_id, str) else None


def _advice(first: Path, second: Path) -> str:
    """Return the remedy for two folders with the same sample id."""
    roots = first.parent, second.parent
    if any(one.is_relative_to(other) for one, other in (roots, roots[::-1])):  # one root, or one within the other
        return "Remove one of them, or give it another sample_id in its sample.json."
    both = f"{roots[0]} {roots[1]}"
    return f"Pass the folder of one run. To compare methods, pass their folders: mvdiff report {both}."


def picture_files(folder: Path) -> list[Path]:
    """List the panorama of a sample folder and all pictures that were made of it."""
    names = [f"{stem}.*" for stem in ("panorama", CROPPED_STEM)] + [f"{CUBE_NAME}/*"]
    return [path for name in names for path in folder.glob(name)]


def numbered(folder: Path, suffix: str) -> list[Path]:
    """List the files `<number><suffix>` of a folder, sorted by number."""
    paths = [path for path in folder.glob(f"*{suffix}") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem))
