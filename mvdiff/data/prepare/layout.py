"""Tell which layout a folder has, and find the panoramas in it without a list."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from mvdiff.data.equirectangular import list_images
from mvdiff.data.matterport3d import layout_root
from mvdiff.data.prepare.scenes import scenes_in
from mvdiff.data.scannet_files import layout_root as scannet_root

Layout = Literal["matterport3d", "equirectangular", "scannet"]

FACES_FOLDER = "matterport_skybox_images"
"""Name of the folder of a scene's skybox faces."""

_FACE = re.compile(r"(?P<pano>.+)_skybox(?P<face>[0-5])_sami\.(jpg|jpeg|png)")


def find_layouts(root: str | Path) -> list[tuple[Layout, Path]]:
    """Return the layouts of a folder, each with the folder that holds its lists or its train/ and test/.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has none of the known layouts.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder; {root} does not exist. Correct the path.")
    if (root / "color").is_dir():  # a single scene, which has lists of its own
        return [("scannet", root)]
    scenes, skyboxes, found = scenes_in(root), layout_root(root), []
    look_deeper = skyboxes != root or not scenes  # not into the many files of scenes
    if any(skyboxes.glob("*.npy")) or (look_deeper and (any(True for _ in _face_folders(skyboxes)) or _zips(skyboxes))):
        found.append(("matterport3d", skyboxes))
    if scenes:
        found.append(("scannet", scannet_root(root)))
    if not found and (any(root.glob("*.txt")) or list_images(root)):
        found.append(("equirectangular", root))
    if not found:
        raise ValueError(
            f"DIR must be a Matterport3D folder (train.npy, <scene>/{FACES_FOLDER}), a folder of equirectangular "
            f"images, or one of ScanNet scenes ({{train,test}}/<scene>/color); got {root}, which is none."
        )
    return found


def detect_layout(root: str | Path) -> tuple[Literal["matterport3d", "equirectangular"], Path]:
    """Return the layout of a folder of panoramas and the folder that holds its lists.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no layout of panoramas.
    """
    found = [(layout, folder) for layout, folder in find_layouts(root) if layout != "scannet"]
    if not found:
        raise ValueError(f"DIR must be a folder of panoramas; got {root}, which holds ScanNet scenes: move folders.")
    return found[0]


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
