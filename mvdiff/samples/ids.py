"""Ids of samples: each names a folder, and no two may name the same one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from urllib.parse import quote

from mvdiff.files.paths import MAX_NAME_BYTES, same_name

_log = logging.getLogger(__name__)


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


def check_ids(ids: Iterable[tuple[str, str]], ignores_case: Callable[[], bool] | None = None) -> None:
    """Check that ids can name folders side by side.

    Args:
        ids: (id, file and line) of each sample.
        ignores_case: Says whether the samples' file system ignores case; asked only where two ids differ in nothing
            else. None: it is not known yet, so that such ids are a warning.

    Raises:
        ValueError: An id is not allowed, see `check_id`, or two are equal, also in NFC or, where the file system
            ignores case, without regard to case.
    """
    places: dict[str, str] = {}
    alike: dict[str, str] = {}  # ids by folder, without regard to case
    for sample_id, where in ids:
        check_id(sample_id, where)
        name = same_name(sample_id)
        if name in places:
            raise ValueError(f"id must be unique; got {sample_id!r} again, in {where}, first in {places[name]}.")
        places[name] = where
        first = alike.setdefault(_quoted(name).casefold(), name)
        if first == name:
            continue
        place = places[first]
        both = f"{sample_id!r} in {where} and {first!r} in {place}"
        if ignores_case is None:
            _log.warning("Ids that differ only in case share a folder on some file systems; got %s.", both)
        elif ignores_case():
            raise ValueError(
                f"id must differ from others in more than case, which this file system ignores; got {both}."
            )


def listed_ids(ids: Iterable[str], most: int = 5) -> str:
    """Return the first of some different ids as one text, and how many more there are.

    Example:
        >>> listed_ids(["a", "b", "c"]), listed_ids(["a", "b", "c"], most=1)
        ('a, b, c', 'a and 2 more')
    """
    different = list(dict.fromkeys(ids))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _quoted(sample_id: str) -> str:
    name = quote(same_name(sample_id), safe="")
    return "%2E" + name[1:] if name.startswith(".") else name
