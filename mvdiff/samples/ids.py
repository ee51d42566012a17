"""Ids of samples: each names a folder, and no two may name the same one."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from mvdiff.files.paths import MAX_NAME_BYTES, same_name


def folder_name(sample_id: str) -> str:
    """Return the name of a sample's folder: the id in NFC, percent-encoded, so that slashes add no level.

    Raises:
        ValueError: The id cannot name a folder, see `check_id`.

    Example:
        >>> folder_name("scene/pano 1"), folder_name(".hidden")
        ('scene%2Fpano%201', '%2Ehidden')
    """
    check_id(sample_id)
    return _quoted(sample_id)


def check_id(sample_id: str, where: str = "") -> None:
    """Check that an id can name a folder.

    Args:
        sample_id: The id.
        where: File and line, named in errors; "" leaves it out.

    Raises:
        ValueError: The id is blank, `.` or `..`, is not Unicode, or is too long for the name of a folder.
    """
    place = f", in {where}" if where else ""
    if sample_id.strip() in ("", ".", ".."):
        raise ValueError(f"id must be able to name a folder; got {sample_id!r}{place}.")
    try:
        length = len(_quoted(sample_id))
    except UnicodeEncodeError as error:
        raise ValueError(f"id must be Unicode text; got {sample_id!r}{place}.") from error
    if length > MAX_NAME_BYTES:
        raise ValueError(
            f"id must be at most {MAX_NAME_BYTES} bytes long as the name of a folder (a letter beyond ASCII has 6 or "
            f"more); got {length} bytes, {sample_id[:40]!r}...{place}. Give it a shorter id."
        )


def check_ids(ids: Iterable[tuple[str, str]]) -> None:
    """Check that ids can name folders side by side, on every file system.

    Args:
        ids: (id, file and line) of each sample.

    Raises:
        ValueError: An id is not allowed, see `check_id`, or two are equal, also in NFC or without regard to case.
    """
    seen: dict[str, tuple[str, str]] = {}
    for sample_id, where in ids:
        check_id(sample_id, where)
        key = same_name(sample_id).casefold()
        if key not in seen:
            seen[key] = sample_id, where
            continue
        first, place = seen[key]
        if same_name(first) == same_name(sample_id):
            raise ValueError(f"id must be unique; got {sample_id!r} again, in {where}, first in {place}.")
        raise ValueError(
            f"id must differ from others in more than case, which some file systems ignore; got {sample_id!r} in "
            f"{where} and {first!r} in {place}."
        )


def _quoted(sample_id: str) -> str:
    name = quote(same_name(sample_id), safe="")
    return "%2E" + name[1:] if name.startswith(".") else name
