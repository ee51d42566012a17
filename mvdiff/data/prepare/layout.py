"""Tell which layout a folder has, and find the panoramas in it without a list."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from mvdiff.data.equirectangular import list_images
from mvdiff.data.matterport3d import layout_root

FACES_FOLDER = "matterport_skybox_images"
"""Name of the folder of a scene's skybox faces."""

_FACE = re.compile(r"(?P<pano>.+)_skybox(?P<face>[0-5])_sami\.(jpg|jpeg|png)")


def detect_layout(root: str | Path) -> tuple[Literal["matterport3d", "equirectangular"], Path]:
    """Return the layout of a folder and the folder that holds its lists.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has none of the known layouts.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder; {root} does not exist. Correct the path.")
    skyboxes = layout_root(root)
    if any(skyboxes.glob("*.npy")) or any(True for _ in _face_folders(skyboxes)) or _zips(skyboxes):
        return "matterport3d", skyboxes
    if any(root.glob("*.txt")) or list_images(root):
        return "equirectangular", root
    raise ValueError(
        f"DIR must be a Matterport3D folder (train.npy, <scene>/{FACES_FOLDER}) or a folder of equirectangular "
        f"images; got {root}, which has neither."
    )


def find_skyboxes(root: Path) -> tuple[dict[str, list[tuple[str, ...]]], list[str]]:
    """Find skybox panoramas below a folder.

    Returns:
        Per scene, sorted, its panoramas as rows of six face paths relative to `root`; and the panoramas that lack
        faces, by name.
    """
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


def _zips(root: Path) -> list[Path]:
    return sorted(root.rglob(f"{FACES_FOLDER}.zip"))


def _face_folders(root: Path):
    for folder, subfolders, _ in os.walk(root):
        if FACES_FOLDER in subfolders:
            yield Path(folder) / FACES_FOLDER
            subfolders.remove(FACES_FOLDER)
