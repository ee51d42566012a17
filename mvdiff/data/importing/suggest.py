"""Guess what the pictures of a folder are that holds no samples."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mvdiff.data.importing.pictures import FACE_WORDS, WHOLE, Kind, SamplePictures, find_pictures
from mvdiff.files.images import stored_size
from mvdiff.files.paths import own_name

_LOOKED_AT = 8
_MOST_VIEWS = 64


def guess_kind(root: Path) -> Kind | None:
    """Return the kind of most pictures at and below a folder, by their shapes and names; None where none fits.

    The headers of a few pictures are read. Pictures twice as wide as high are panoramas; six square ones of a name are
    faces; equally many of each name are views.
    """
    try:
        panoramas, cubes, views = (find_pictures(root, kind).samples for kind in ("erp", "cubemap", "views"))
    except (ValueError, OSError):
        return None
    shapes = [shape for one in panoramas[:: max(1, len(panoramas) // _LOOKED_AT)] if (shape := _shape(root, one))]
    if not shapes:
        return None
    ratios = [width / height for width, height in shapes]
    if _is_most(ratio == 2 for ratio in ratios):
        return "erp"
    squares = _is_most(ratio == 1 for ratio in ratios)
    if _is_most(ratio == 6 for ratio in ratios) or (squares and _is_most(map(_is_cube, cubes))):
        return "cubemap"
    counts = {len(one.files) for one in views}
    in_folders = any("/" in one.name for one in views)
    if len(counts) == 1 and 2 <= min(counts) <= _MOST_VIEWS and (in_folders or len(views) > 1):
        return "views"
    return None


def import_command(root: Path, kind: Kind) -> str:
    """Return the line that imports a folder, to type as it is; the samples go beside the folder.

    Example:
        >>> import_command(Path("their pictures"), "erp")
        "mvdiff import erp 'their pictures' --out 'their pictures-samples'"
    """
    beside = root.parent if root.name not in ("", "..") else root / ".."
    return shlex.join(["mvdiff", "import", kind, str(root), "--out", str(beside / f"{own_name(root)}-samples")])


def _shape(root: Path, pictures: SamplePictures) -> tuple[int, int] | None:
    with suppress(ValueError, OSError):
        return stored_size(root / pictures.files[WHOLE])
    return None


def _is_most(answers: Iterable[bool]) -> bool:
    """Return True if more than half of the answers are."""
    told = list(answers)
    return 2 * sum(told) > len(told)


def _is_cube(pictures: SamplePictures) -> bool:
    parts = {FACE_WORDS.get(part, part) for part in pictures.files}
    return len(parts) == 6 and (parts <= set(FACE_WORDS.values()) or parts == set("012345"))
