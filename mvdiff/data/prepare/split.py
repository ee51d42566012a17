"""Write the train and test lists of a data set: `mvdiff data split`."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvdiff.data.equirectangular import list_images, without_suffix
from mvdiff.data.layouts import Source, name_in
from mvdiff.data.panorama_files import not_read, unread_images
from mvdiff.data.prepare.layout import FACES_FOLDER, face_archives, find_skyboxes, splittable
from mvdiff.files.paths import existing, is_hidden, kind_of, same_name
from mvdiff.files.writing import whole_folder, write_whole
from mvdiff.keyed import keyed_int

MAX_RATIO = 100
"""Most bytes of a face for each byte of an archive; JPEG faces hardly shrink in one."""


@dataclass
class SplitReport:
    """Result of `split_folder`."""

    train: int  # panoramas or scenes in the training list
    test: int  # panoramas or scenes in the test list
    files: list[Path]
    unpacked: list[Path]  # archives unpacked
    left_out: list[str]  # panoramas with missing faces
    copies: list[str]  # further copies of listed panoramas
    noun: str  # "panoramas" or "scenes"
    unread: list[Path]  # pictures of formats that are not read
    broken_links: list[Path]  # links to pictures that lead nowhere


def split_folder(
    root: str | Path,
    test_fraction: float = 0.1,
    test_names: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    source: Source | None = None,
) -> SplitReport:
    """Write train and test lists; the same files give the same lists on every machine.

    A Matterport3D folder is split by scene, so that both lists share no place. It may be a raw download: its
    `matterport_skybox_images.zip` archives are first unpacked in place. A folder of equirectangular images is split by
    file, a folder of recordings by recording.

    Args:
        root: Folder of the data set.
        test_fraction: Share of panoramas or recordings in the test list, in (0, 1); 0.1 in the paper (arXiv
            2307.01097).
        test_names: Scenes, or file names with or without suffix, of the test list; None selects them at random.
        seed: Random seed of the selection.
        overwrite: Replace existing lists.
        source: Reader of recordings; None: layouts are detected. A user's class of panoramas needs no lists: it gets
            the split as an argument.

    Raises:
        FileExistsError: A list exists and `overwrite` is False.
        ValueError: A setting or name is invalid, or there are fewer than two scenes or images.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1; got {test_fraction}.")
    layout, root, scenes = splittable(root, source)
    suffix = ".npy" if layout == "matterport3d" else ".txt"
    files = [existing(root / f"train{suffix}"), existing(root / f"test{suffix}")]
    present = [path for path in files if path.exists()]
    if present and not overwrite:
        raise FileExistsError(f"{present[0]} already exists. Pass --overwrite to replace it.")
    unread: list[Path] = []
    broken_links: list[Path] = []
    if layout == "matterport3d":
        unpacked = unpack_archives(root)
        groups, left_out, copies = find_skyboxes(root)
    else:
        unpacked, left_out, copies = [], [], []
        names = [name_in(root, scene) for scene in scenes]
        if not scenes:
            images = list_images(root)
            broken_links = [path for path in images.values() if kind_of(path) == "broken link"]
            names = [name for name, path in images.items() if path not in broken_links]
            unread = unread_images(root, images)
        if unread and not names:
            raise ValueError(f"DIR must hold images that are read; got {unread[0]}: {not_read(unread[0])}.")
        groups = {name: [name] for name in names}
    test_groups = _test_groups(groups, test_fraction, test_names, seed)
    train = [row for name in sorted(groups) if name not in test_groups for row in groups[name]]
    test = [row for name in sorted(test_groups) for row in groups[name]]
    with whole_folder(root.resolve()) as new:  # both lists or none: an old one beside a new one would share panoramas
        for path, rows in zip(files, (train, test), strict=True):
            if suffix == ".npy":
                np.save(new / path.name, np.array(rows))
            else:
                write_whole(new / path.name, "".join(f"{name}\n" for name in rows))
    noun = "scenes" if scenes else "panoramas"
    return SplitReport(len(train), len(test), files, unpacked, left_out, copies, noun, unread, broken_links)


def unpack_archives(root: Path) -> list[Path]:
    """Unpack the `matterport_skybox_images.zip` of each scene in place; return the archives that were unpacked.

    An archive is left alone if its faces lie beside it, put there by this function or by `unzip`.

    Raises:
        ValueError: An archive is damaged.
    """
    unpacked = []
    for archive in sorted(face_archives(root)):
        target = archive.parent / FACES_FOLDER
        if target.is_dir():
            continue
        _check_archive(archive)
        with zipfile.ZipFile(archive) as content:
            faces = [member for member in content.infolist() if _is_face(member)]
            if faces and all(_is_unpacked(archive.parent, member) for member in faces):
                continue
            with whole_folder(target) as new:
                for member in faces:
                    with content.open(member) as packed, open(new / Path(member.filename).name, "wb") as face:
                        shutil.copyfileobj(packed, face)
        unpacked.append(archive)
    return unpacked


def _check_archive(path: Path) -> None:
    """Read all of an archive of faces; raise ValueError if it is damaged or unpacks to too much."""
    stored = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as content:
            promised = sum(member.file_size for member in content.infolist())  # no more of a member is ever unpacked
            damaged = content.testzip() if promised <= MAX_RATIO * stored else None
    except Exception as error:  # a damaged directory of the archive can fail in any way
        raise ValueError(f"{path} must be a whole zip file; got {error}. Download it again.") from error
    if promised > MAX_RATIO * stored:
        raise ValueError(
            f"{path} must be an archive of JPEG faces; it has {stored} bytes and unpacks to {promised}. Download it "
            "again."
        )
    if damaged is not None:
        raise ValueError(f"{path} must be a whole zip file; {damaged} is damaged. Download it again.")


def _is_face(member: zipfile.ZipInfo) -> bool:
    path = Path(member.filename)
    return path.parent.name == FACES_FOLDER and not member.is_dir() and not any(map(is_hidden, path.parts))


def _is_unpacked(folder: Path, member: zipfile.ZipInfo) -> bool:
    path = folder / member.filename
    return ".." not in path.parts and path.is_file() and path.stat().st_size == member.file_size


def _test_groups(
    groups: dict[str, list], test_fraction: float, test_names: Sequence[str] | None, seed: int
) -> set[str]:
    """Select the test groups: those named, or groups in the order of a keyed hash up to the share."""
    if test_names is not None:
        selected = {without_suffix(same_name(name), groups) for name in test_names}
        unknown = sorted(selected - groups.keys())
        if unknown:
            raise ValueError(f"test names must be in the folder; got {unknown[0]!r} ({len(unknown)} unknown).")
    else:
        if len(groups) < 2:
            raise ValueError(f"DIR must have at least two scenes or images to split; got {len(groups)}.")
        wanted = test_fraction * sum(map(len, groups.values()))
        selected, count = set(), 0
        for name in sorted(groups, key=lambda name: keyed_int("split", seed, name))[:-1]:
            if count and count + len(groups[name]) / 2 > wanted:
                break
            selected.add(name)
            count += len(groups[name])
    if not selected or len(selected) == len(groups):
        raise ValueError(
            f"both lists must have at least one scene or image; got {len(selected)} of {len(groups)} for the test list."
        )
    return selected
