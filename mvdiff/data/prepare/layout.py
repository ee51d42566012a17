"""Detect the layouts of a data set folder, and find panoramas without a list."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from mvdiff.data.equirectangular import list_images
from mvdiff.data.layouts import Source, data_set_root, looked_for, recording_class, recordings_in
from mvdiff.data.matterport3d import layout_root
from mvdiff.data.panorama_files import unread_images

FACES_FOLDER = "matterport_skybox_images"
"""Name of the folder with a scene's skybox faces."""

_FACE = re.compile(r"(?P<pano>.+)_skybox(?P<face>[0-5])_sami\.(jpg|jpeg|png)")


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
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder; {root} does not exist.")
    if recording_class(root, source):  # a single scene
        return [_recordings(root, [root], source)]
    scenes, skyboxes, found = recordings_in(root, source), layout_root(root), []
    look_deeper = skyboxes != root or not scenes  # not into the many files of scenes
    if source is None and (
        any(skyboxes.glob("*.npy"))
        or (look_deeper and (any(_face_folders(skyboxes)) or any(skyboxes.rglob(f"{FACES_FOLDER}.zip"))))
    ):
        found.append(DataSet("matterport3d", skyboxes))
    if scenes:
        found.append(_recordings(data_set_root(root), scenes, source))
    if source is None and not found and (any(root.glob("*.txt")) or list_images(root) or unread_images(root, ())):
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
    if any(scene.parent.name in ("train", "test") for scene in data_set.scenes):
        raise ValueError(
            f"DIR must be a folder of panoramas or of scenes side by side; got {root}, whose scenes "
            f"({data_set.layout} layout) are already split into train/ and test/. Move them out to split again."
        )
    return data_set


def find_skyboxes(root: Path) -> tuple[dict[str, list[tuple[str, ...]]], list[str]]:
    """Find skybox panoramas: rows of six face paths, relative to `root`, by scene; and paths of incomplete ones."""
    scenes: dict[str, list[tuple[str, ...]]] = {}
    incomplete = []
    for folder in sorted(_face_folders(root)):
        panoramas: dict[str, dict[int, str]] = {}
        for name in sorted(os.listdir(folder)):
            if match := _FACE.fullmatch(name):
                relative = (folder / name).relative_to(root).as_posix()
                panoramas.setdefault(match["pano"], {})[int(match["face"])] = relative
        rows = [tuple(faces[k] for k in range(6)) for faces in panoramas.values() if len(faces) == 6]
        incomplete += [f"{folder}/{pano}" for pano, faces in panoramas.items() if len(faces) < 6]
        if rows:
            scenes.setdefault(folder.parent.name, []).extend(rows)
    return scenes, incomplete


def _face_folders(root: Path):
    for folder, subfolders, _ in os.walk(root):
        if FACES_FOLDER in subfolders:
            yield Path(folder) / FACES_FOLDER
            subfolders.remove(FACES_FOLDER)
