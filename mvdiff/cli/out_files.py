"""Checks of `--out` before anything is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mvdiff.files.paths import real_path
from mvdiff.files.writing import check_plain

_SAMPLE_MARKS = ("sample.json", "prompt.txt")


def check_out(path: Path, suffix: str = "", option: str = "--out") -> None:
    """Check that a file has a suffix, such as ".html", and can be written; make nothing.

    Raises:
        ValueError: It has another suffix.
        OSError: It is a folder, a link, a device or a pipe, or its folder cannot be made or written.
    """
    if suffix and path.suffix.lower() != suffix:
        raise ValueError(f"{option} must end in {suffix}; got {path.name!r}.")
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{option} must be a file; got {path} (a folder).")
    try:
        check_plain(path)
    except OSError as error:
        raise OSError(f"{option}: {error}") from error
    check_folder(path.parent, option)


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise OSError where a folder cannot be made or written; make nothing. A link to a folder counts as the folder."""
    nearest = next(one for one in (folder, *folder.parents) if os.path.lexists(one) or one == one.parent)
    if not nearest.is_dir():
        kind = f"{nearest} is a link to nothing" if nearest.is_symlink() and not nearest.exists() else "Not a directory"
        raise _refused(folder, kind, option)
    if not os.access(nearest, os.W_OK):
        raise _refused(folder, "Permission denied", option)


def make_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder; the OSError where it cannot be made names `--out`."""
    check_folder(folder, option)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error.strerror or str(error), option) from error


def check_sample_inputs(
    out: Path, sample_ids: Iterable[str], inputs: Mapping[str, Iterable[Path]], option: str = "--out"
) -> None:
    """Raise ValueError where an input is a sample folder that is to be written, or lies in one.

    Args:
        out: Root of the sample folders.
        sample_ids: Ids of the samples that are to be written.
        inputs: Files and folders that are read, by the names of their options.
        option: Name of the option that gives the root.
    """
    from mvdiff.samples import sample_folder

    root = real_path(out)
    written = {sample_folder(root, sample_id) for sample_id in sample_ids}
    for name, paths in inputs.items():
        for path in paths:
            place = real_path(path)
            if written & {place, *place.parents}:
                raise ValueError(
                    f"{name} must lie outside of the samples that {option} receives; got {path} and {out}."
                )


def check_no_sample_file(out: Path) -> None:
    """Raise ValueError where scores would replace, or pass for, a file of a sample."""
    samples = [one for one in (out.parent, out.parent.parent) if any((one / name).is_file() for name in _SAMPLE_MARKS)]
    if out.name in _SAMPLE_MARKS or (samples and out.exists() and out.suffix.lower() != ".json"):
        raise ValueError(f"--out must not be a file of a sample; got {out}. Write to results.json.")


def _refused(folder: Path, reason: str, option: str) -> OSError:
    return OSError(f"{option} must lie in a folder that can be written; got {folder} ({reason}).")
