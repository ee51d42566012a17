"""Write whole files and folders: a reader sees the old content or the new one, never a part.

Everything is first written under a hidden name that nobody else has, `.NAME.PID-RANDOM.partial`, and moved into place
at the end. What a killed run leaves under such a name is not data and can be deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from mvdiff.files.paths import real_path

_SUFFIX = ".partial"
_THREADS = 16  # files synced at once: file systems write them in one go


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; sync it and rename it to `path` when the block ends well.

    Args:
        path: File to write.
        sync: Wait until the content is on the disk. False: the caller syncs many files together, see `sync_files`.

    Raises:
        OSError: `path` is a folder, a link, a device or another target that is not a plain file.
    """
    check_plain(path)
    partial = temporary_beside(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str, sync: bool = True) -> None:
    """Write bytes, or text as UTF-8, to a file; see `whole_file`."""
    with whole_file(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(
    folder: Path, replaced: Callable[[], Iterable[Path]] = tuple, last: str | None = None, sync: bool = True
) -> Iterator[Path]:
    """Yield a new hidden folder to write to; move its files to `folder` when the block ends well.

    A new folder appears as a whole. In a folder that exists, files of the same names are replaced and all others stay;
    see `move_into`.

    Args:
        folder: Folder to write.
        replaced: Returns files of an existing `folder` that go, whether or not the new ones have their names.
        last: Name of the file that is replaced last.
        sync: Wait until the content is on the disk.

    Raises:
        OSError: `folder` is a file, a link or a device, or it cannot be written; it is then as it was before.
    """
    check_plain_folder(folder)
    exists = folder.is_dir()
    partial = temporary_beside(folder / "new") if exists else temporary_beside(folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        if sync:
            sync_files(path for path in partial.rglob("*") if path.is_file())
        if exists:
            move_into(partial, folder, replaced(), last)
        else:
            os.rename(partial, folder)
            sync_folders(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def move_into(source: Path, folder: Path, replaced: Iterable[Path] = (), last: str | None = None) -> None:
    """Move the files of a folder into another one, over its files of the same names; undo every move if one fails.

    Args:
        source: Folder on the same file system; it is removed.
        folder: Existing folder.
        replaced: Files of `folder` that are removed first, in this order.
        last: Name of the file that is moved last.

    Raises:
        OSError: A file cannot be moved, or its target is not a plain file.
    """
    names = sorted(path.relative_to(source) for path in source.rglob("*") if not path.is_dir())
    names.sort(key=lambda name: name == Path(last or ""))
    for name in names:
        check_plain(folder / name)
    aside, moves = temporary_beside(folder / "old"), []
    gone = list(replaced)

    def move(old: Path, new: Path) -> None:
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(old, new)
        moves.append((old, new))

    try:
        for path in gone:
            move(path, aside / path.relative_to(folder))
        for name in names:
            if (folder / name).exists():
                move(folder / name, aside / name)
            move(source / name, folder / name)
    except BaseException:
        for old, new in reversed(moves):
            os.replace(new, old)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for part in {path.parent for path in gone} - {folder}:
        if not any(part.iterdir()):
            part.rmdir()
    try:
        sync_folders(folder, *{(folder / name).parent for name in names})
    finally:  # a signal may end the process while it waits
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(source, ignore_errors=True)


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until the content of files is on the disk."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_sync, paths))


def sync_folders(*folders: Path) -> None:
    """Wait until the names in folders are on the disk, where the system can tell."""
    for folder in folders:
        with suppress(OSError):  # Windows and some network file systems sync no folders
            _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """Return a hidden name beside `path` that no other file or process has."""
    name = path.name.encode()[:100].decode(errors="ignore")  # file names end at 255 bytes
    return path.with_name(f".{name}.{os.getpid()}-{uuid4().hex[:8]}{_SUFFIX}")


def is_temporary(name: str) -> bool:
    """Return True for the names that `temporary_beside` gives."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def check_plain(path: Path) -> None:
    """Raise OSError where `path` exists and is not a plain file, since a rename would replace it."""
    if path.is_symlink():
        raise OSError(f"{path} is a link to {os.readlink(path)}; give the file itself.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file; it is a folder.")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} must be a plain file; it is a device, a pipe or a socket.")


def check_apart(
    option: str,
    out: str | Path,
    inputs: Mapping[str, str | Path | Sequence[str | Path] | None],
    around: bool = True,
    inside: bool = False,
) -> None:
    """Check that writing to a path destroys no input; paths are compared with `~` expanded and all links followed.

    Args:
        option: Name of the option or argument that `out` comes from.
        out: File or folder to write.
        inputs: Files and folders that are read, by the names of their options; None: not given.
        around: Refuse an input inside `out`, too.
        inside: Refuse an `out` inside an input, too.

    Raises:
        ValueError: `out` is an input, or one lies inside the other.
    """
    place = real_path(out)
    several = ((name, value if isinstance(value, list | tuple) else [value]) for name, value in inputs.items())
    for name, path in ((name, path) for name, paths in several for path in paths if path is not None):
        other = real_path(path)
        same = place == other or (place.exists() and other.exists() and place.samefile(other))
        if same and other.is_file():
            raise ValueError(f"{name} and {option} must not be the same file; got {path} and {out}.")
        if same or (around and other.is_relative_to(place)) or (inside and place.is_relative_to(other)):
            raise ValueError(f"{name} and {option} must not contain each other; got {path} and {out}.")


def check_plain_folder(path: Path) -> None:
    """Raise OSError where `path` exists and is not a folder itself."""
    if path.is_symlink():
        raise OSError(f"{path} is a link to {os.readlink(path)}; give the folder itself.")
    if path.exists() and not path.is_dir():
        kind = "a file" if path.is_file() else "a device, a pipe or a socket"
        raise NotADirectoryError(f"{path} must be a folder; it is {kind}.")
