"""Detect the layouts of a data set folder, and find panoramas without a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mvdiff.data.equirectangular import list_images
from mvdiff.data.layouts import Source, data_set_root, looked_for, recording_class, recordings_in, split_of
from mvdiff.data.matterport3d import layout_root, split_lists
from mvdiff.data.panorama_files import unread_images
from mvdiff.files.images import IMAGE_SUFFIXES
from mvdiff.files.paths import expanded, same_name, visible, walk

FACES_FOLDER = "matterport_skybox_images"
"""Name of the folder with a scene's skybox faces."""

_FACE = re.compile(r"(?P<pano>.+)_skybox(?P<face>[0-5])_sami")


class DataSet(NamedTuple):
    """A data set of one kind."""

    layout: str  # "matterport3d", "equirectangular", or the layouts of its recordings
    root: Path  # folder of the lists, or of train/ and test/
    scenes: tuple[Path, ...] = ()  # folders of the recordings; empty for panoramas


def find_layouts(root: str | Path, source: Source | None = None) -> list[DataSet]:
    """Return the data sets in a folder: panoramas, recordings (read by `source`, if given), or both.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has no known layout.
    """
    root = expanded(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder; {root} does not exist.")
    if recording_class(root, source):  # a single scene
        return [_recordings(root, [root], source)]
    scenes, skyboxes, found = recordings_in(root, source), layout_root(root), []
    look_deeper = skyboxes != root or not scenes  # not into the many files of scenes
    if source is None and (
        split_lists(skyboxes) or (look_deeper and (any(_face_folders(skyboxes)) or any(face_archives(skyboxes))))
    ):
        found.append(DataSet("matterport3d", skyboxes))
    if scenes:
        found.append(_recordings(data_set_root(root), scenes, source))
    if source is None and not found and (list_images(root) or visible(root, ".txt") or unread_images(root, ())):
        found.append(DataSet("equirectangular", root))
    if not found:
        panoramas = f"a Matterport3D folder (train.npy, <scene>/{FACES_FOLDER}), a folder of equirectangular images, "
        raise ValueError(
            f"DIR must be {panoramas if source is None else ''}a scene or a folder of scenes "
            f"({{train,test}}/<scene> with {looked_for(source)}); got {root}, which is none of these."
        )
    return found


def _recordings(root: Path, scenes: list[Path], source: Source | None) -> DataSet:
    layouts = sorted({recording_class(scene, source).cls.layout for scene in scenes})
    return DataSet(", ".join(layouts), root, tuple(scenes))


def splittable(root: str | Path, source: Source | None = None) -> DataSet:
    """Return the data set of a folder that can be split: its panoramas, or else its recordings.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has no known layout, is a single recording, or is already split into train/ and test/.
    """
    data_set = min(find_layouts(root, source), key=lambda data_set: bool(data_set.scenes))
    if data_set.root in data_set.scenes:
        raise ValueError(f"DIR must be a folder of panoramas or scenes; got {root}, which is a single scene.")
    if any(map(split_of, data_set.scenes)):
        raise ValueError(
            f"DIR must be a folder of panoramas or of scenes side by side; got {root}, whose scenes "
            f"({data_set.layout} layout) are already split into train/ and test/. Move them out to split again."
        )
    return data_set


class Skyboxes(NamedTuple):
    """Skybox panoramas of a folder; a panorama is its (scene, name)."""

    scenes: dict[str, list[tuple[str, ...]]]  # rows of six face paths, relative to the folder, by scene
    incomplete: list[str]  # paths of panoramas with missing faces
    copies: list[str]  # paths of further copies of a panorama, which are left out


def find_skyboxes(root: Path) -> Skyboxes:
    """Find skybox panoramas, each once; of several copies, such as `<scene>/<scene>/...`, take the first whole one."""
    found: dict[tuple[str, str], list[tuple[Path, dict[int, str]]]] = {}
    for folder in sorted(_face_folders(root), key=lambda folder: (len(folder.parts), folder)):
        scene, panoramas = same_name(folder.parent.name), {}
        for path in visible(folder, *IMAGE_SUFFIXES):
            if match := _FACE.fullmatch(same_name(path.stem)):
                faces = panoramas.setdefault(match["pano"], {})
                faces[int(match["face"])] = path.relative_to(root).as_posix()
        for pano, faces in panoramas.items():
            found.setdefault((scene, pano), []).append((folder / pano, faces))
    skyboxes = Skyboxes({}, [], [])
    for (scene, _), copies in sorted(found.items()):
        path, faces = max(copies, key=lambda copy: len(copy[1]))  # the first of equals
        if len(faces) == 6:
            skyboxes.scenes.setdefault(scene, []).append(tuple(faces[k] for k in range(6)))
        else:
            skyboxes.incomplete.append(str(path))
        skyboxes.copies.extend(str(other) for other, _ in copies if other != path)
    return skyboxes


def face_archives(root: Path) -> Iterator[Path]:
    """Find the archives of skybox faces of a raw download."""
    for folder, _, names in walk(root):
        yield from (folder / name for name in names if name.lower() == f"{FACES_FOLDER}.zip")


def _face_folders(root: Path) -> Iterator[Path]:
    for folder, subfolders, _ in walk(root):
        if FACES_FOLDER in subfolders:
            yield folder / FACES_FOLDER
            subfolders.remove(FACES_FOLDER)
