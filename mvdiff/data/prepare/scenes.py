"""Find the scenes of a ScanNet layout, and make a second folder of them that holds other lists or captions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mvdiff.data.scannet_files import layout_root


def find_scenes(root: str | Path) -> list[Path]:
    """Return the scenes of a folder, sorted: the folder itself, those in it, or those in its train/ and test/.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no scene.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder of scenes; {root} does not exist. Correct the path.")
    scenes = scenes_in(root)
    if not scenes:
        raise ValueError(
            f"DIR must be a scene, or hold scenes in train/ and test/ (folders with color/, depth/ and pose/); got "
            f"{root}, which has none."
        )
    return scenes


def scenes_in(root: Path) -> list[Path]:
    """Return the scenes of a folder as `find_scenes` does, none where there is none."""
    if (root / "color").is_dir():
        return [root]
    root = layout_root(root)
    for pattern in ("*/color", "*/*/color"):
        if scenes := sorted(path.parent for path in root.glob(pattern) if path.is_dir()):
            return scenes
    return []


def output_folder(scene: Path, root: Path, out: Path | None) -> Path:
    """Return where a scene's new files go: into itself, or to its place below `out`, made like it by links.

    The frames are linked to; captions and lists, which are small, are copied, so that nothing written there reaches
    the original.
    """
    if out is None:
        return scene
    base = root if scene == root else layout_root(root)
    folder = out / scene.relative_to(base)
    if folder.resolve() == scene.resolve():
        return scene
    folder.mkdir(parents=True, exist_ok=True)
    for entry in sorted(scene.iterdir()):
        target = folder / entry.name
        if target.exists():
            continue
        if entry.is_file():
            shutil.copyfile(entry, target)
        elif entry.name == "prompt":
            shutil.copytree(entry, target)
        else:
            os.symlink(entry.resolve(), target, target_is_directory=True)
    return folder
