"""Copies of recordings that link to the same frames but hold other lists or captions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mvdiff.data.frame_files import KEY_FRAMES, PROMPTS, VALID_FRAMES
from mvdiff.data.layouts import data_set_root
from mvdiff.files.paths import visible


def output_folder(scene: Path, root: Path, out: Path | None) -> Path:
    """Return the folder for a scene's new files: the scene itself, or a copy at the same relative path below `out`.

    The copy links to all files except captions and lists, which are copied, so that writing to it leaves the original
    unchanged.

    Raises:
        OSError: A file cannot be written, or a link at its place leads nowhere.
    """
    if out is None:
        return scene
    base = root if scene == root else data_set_root(root)
    folder = out / scene.relative_to(base)
    if folder.resolve() == scene.resolve():
        return scene
    folder.mkdir(parents=True, exist_ok=True)
    for entry in visible(scene):
        target = folder / entry.name
        if target.exists():
            continue
        if target.is_symlink():
            raise OSError(f"{target} is a link to {os.readlink(target)}, which does not exist; remove the link.")
        if entry.name in (KEY_FRAMES, VALID_FRAMES):
            shutil.copyfile(entry, target)
        elif entry.name == PROMPTS:
            shutil.copytree(entry, target)
        else:
            os.symlink(entry.resolve(), target, target_is_directory=entry.is_dir())
    return folder
