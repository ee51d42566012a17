"""Make the train and test lists of a data set: `mvdiff data split`."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvdiff.data.equirectangular import list_images
from mvdiff.data.layouts import Source
from mvdiff.data.prepare.layout import FACES_FOLDER, find_skyboxes, splittable
from mvdiff.data.whole_files import whole_file
from mvdiff.keyed import keyed_int


@dataclass
class SplitReport:
    """Lists that were written."""

    train: int  # panoramas or scenes in the training list
    test: int  # those in the test list
    files: list[Path]
    unpacked: list[Path]  # archives that were unpacked on the way
    left_out: list[str]  # panoramas that lack faces
    noun: str  # "panoramas" or "scenes"


def split_folder(
    root: str | Path,
    test_fraction: float = 0.1,
    test_names: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    source: Source | None = None,
) -> SplitReport:
    """Write train and test lists, the same ones for the same files on every machine.

    A Matterport3D folder is split by scene, so that no place is in both lists; it may be a raw download, whose
    `matterport_skybox_images.zip` archives are unpacked beside themselves first. A folder of equirectangular images
    is split by file, a folder of recordings that are not in train/ and test/ by recording.

    Args:
        root: The data set's folder.
        test_fraction: Share of the panoramas to test on; the paper's (arXiv 2307.01097) is a tenth.
        test_names: Scenes (or file names without ending) to test on instead of choosing them.
        seed: Seed of the choice.
        overwrite: Replace lists that exist.
        source: Reader of recordings; default those of their layouts. Panoramas read by a user's class need no lists:
            the class is told the split.

    Raises:
        FileExistsError: There are lists already.
        ValueError: A setting or a name does not fit, or there are fewer than two scenes to choose from.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1; got {test_fraction}.")
    layout, root, scenes = splittable(root, source)
    suffix = ".npy" if layout == "matterport3d" else ".txt"
    files = [root / f"train{suffix}", root / f"test{suffix}"]
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} must not exist yet; it does. Pass --overwrite to replace it.")
    if layout == "matterport3d":
        unpacked = unpack_archives(root)
        groups, left_out = find_skyboxes(root)
    else:
        unpacked, left_out = [], []
        names = [scene.relative_to(root).as_posix() for scene in scenes] or list_images(root)
        groups = {name: [name] for name in names}
    chosen = _chosen(groups, test_fraction, test_names, seed)
    train = [row for name in sorted(groups) if name not in chosen for row in groups[name]]
    test = [row for name in sorted(chosen) for row in groups[name]]
    for path, rows in zip(files, (train, test), strict=True):
        with whole_file(path) as file:
            if suffix == ".npy":
                np.save(file, np.array(rows))
            else:
                file.write("".join(f"{name}\n" for name in rows).encode())
    return SplitReport(len(train), len(test), files, unpacked, left_out, "scenes" if scenes else "panoramas")


def unpack_archives(root: Path) -> list[Path]:
    """Unpack the `matterport_skybox_images.zip` of each scene beside itself, unless that was done before."""
    unpacked = []
    for archive in sorted(root.rglob(f"{FACES_FOLDER}.zip")):
        target = archive.parent / FACES_FOLDER
        if target.is_dir():
            continue
        # written under another name first, so that an interrupted run is not taken for a finished one
        partial = archive.parent / f"{FACES_FOLDER}.partial"
        partial.mkdir(exist_ok=True)
        try:
            with zipfile.ZipFile(archive) as content:
                for member in content.infolist():
                    path = Path(member.filename)
                    if path.parent.name == FACES_FOLDER and not member.is_dir():
                        (partial / path.name).write_bytes(content.read(member))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{archive} must be a whole zip file; got {error}. Download it again.") from error
        partial.rename(target)
        unpacked.append(archive)
    return unpacked


def _chosen(groups: dict[str, list], test_fraction: float, test_names: Sequence[str] | None, seed: int) -> set[str]:
    """Choose the test groups: those named, or groups in the order of a keyed hash up to the wanted share."""
    if test_names is not None:
        unknown = sorted(set(test_names) - groups.keys())
        if unknown:
            raise ValueError(f"test names must be in the folder; got {unknown[0]!r} ({len(unknown)} unknown).")
        chosen = set(test_names)
    else:
        if len(groups) < 2:
            raise ValueError(f"DIR must have at least two scenes or images to split; got {len(groups)}.")
        wanted = test_fraction * sum(map(len, groups.values()))
        chosen, count = set(), 0
        for name in sorted(groups, key=lambda name: keyed_int("split", seed, name))[:-1]:
            if count and count + len(groups[name]) / 2 > wanted:
                break
            chosen.add(name)
            count += len(groups[name])
    if not chosen or len(chosen) == len(groups):
        raise ValueError(f"test names must leave panoramas on both sides; got {len(chosen)} of {len(groups)}.")
    return chosen
