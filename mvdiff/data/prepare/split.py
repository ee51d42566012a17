"""Write the train and test lists of a data set: `mvdiff data split`."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvdiff.data.equirectangular import list_images
from mvdiff.data.layouts import Source
from mvdiff.data.prepare.layout import FACES_FOLDER, find_skyboxes, splittable
from mvdiff.files.writing import whole_folder, write_whole
from mvdiff.keyed import keyed_int


@dataclass
class SplitReport:
    """Result of `split_folder`."""

    train: int  # panoramas or scenes in the training list
    test: int  # panoramas or scenes in the test list
    files: list[Path]
    unpacked: list[Path]  # archives unpacked
    left_out: list[str]  # panoramas with missing faces
    noun: str  # "panoramas" or "scenes"


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
        test_names: Scenes, or file names without suffix, of the test list; None selects them at random.
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
    files = [root / f"train{suffix}", root / f"test{suffix}"]
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} already exists. Pass --overwrite to replace it.")
    if layout == "matterport3d":
        unpacked = unpack_archives(root)
        groups, left_out = find_skyboxes(root)
    else:
        unpacked, left_out = [], []
        names = [scene.relative_to(root).as_posix() for scene in scenes] or list_images(root)
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
    return SplitReport(len(train), len(test), files, unpacked, left_out, "scenes" if scenes else "panoramas")


def unpack_archives(root: Path) -> list[Path]:
    """Unpack the `matterport_skybox_images.zip` of each scene in place, unless already done; return the archives.

    Raises:
        ValueError: An archive is damaged.
    """
    unpacked = []
    for archive in sorted(root.rglob(f"{FACES_FOLDER}.zip")):
        target = archive.parent / FACES_FOLDER
        if target.is_dir():
            continue
        try:
            with whole_folder(target) as new, zipfile.ZipFile(archive) as content:
                for member in content.infolist():
                    path = Path(member.filename)
                    if path.parent.name == FACES_FOLDER and not member.is_dir():
                        (new / path.name).write_bytes(content.read(member))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{archive} must be a whole zip file; got {error}. Download it again.") from error
        unpacked.append(archive)
    return unpacked


def _test_groups(
    groups: dict[str, list], test_fraction: float, test_names: Sequence[str] | None, seed: int
) -> set[str]:
    """Select the test groups: those named, or groups in the order of a keyed hash up to the share."""
    if test_names is not None:
        unknown = sorted(set(test_names) - groups.keys())
        if unknown:
            raise ValueError(f"test names must be in the folder; got {unknown[0]!r} ({len(unknown)} unknown).")
        selected = set(test_names)
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
