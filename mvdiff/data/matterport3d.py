"""The Matterport3D layout: six skybox faces per panorama and a caption file every 45 degrees (docs/data.md).

```
root/train.npy, test.npy                                 rows of 6 relative face paths
root/<scene>/matterport_skybox_images/<pano>_skybox{0..5}_sami.jpg
root/<scene>/blip3/<pano>_<deg>.txt                      deg in 0, 45, ..., 315; also up, down; line 1 is the prompt
```
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.captions import read_caption
from mvdiff.data.panoramas import Captions, OnBroken, whole_entries
from mvdiff.files.images import read_image_uint8
from mvdiff.geometry.panorama import perspective_from_skybox
from mvdiff.samples import from_uint8

CAPTION_DEGREES = tuple(range(0, 360, 45))
"""Yaws, in degrees, with a caption file each."""


def layout_root(root: str | Path) -> Path:
    """Return the folder that holds the split lists: `root` itself or `root/mp3d_skybox`."""
    root = Path(root)
    inner = root / "mp3d_skybox"
    return inner if inner.is_dir() and not any(root.glob("*.npy")) else root


def read_split(path: Path) -> list[tuple[str, ...]]:
    """Read a split list.

    Returns:
        Six face paths per panorama, relative to the list's folder: up, yaw 270, 0, 90, 180, down.

    Raises:
        FileNotFoundError: The list does not exist.
        ValueError: The list is not an [N, 6] array of strings with N > 0.
    """
    make = f"Run `mvdiff data split {path.parent}` to make it."
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {make}")
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be a numpy array of strings; it cannot be read ({error}). {make}") from error
    if rows.ndim != 2 or rows.shape[1] != 6 or rows.dtype.kind != "U":
        raise ValueError(f"{path} must hold strings of shape [N, 6]; got {rows.dtype} of shape {rows.shape}. {make}")
    if not len(rows):
        raise ValueError(f"{path} must list at least one panorama; got none. {make}")
    return [tuple(row) for row in rows.tolist()]


def caption_path(root: Path, face: str, key: int | str) -> Path:
    """Return the caption file for a yaw, "up" or "down" of the panorama to which a face belongs."""
    face_path = root / face
    return face_path.parent.parent / "blip3" / f"{pano_name(face)}_{key}.txt"


def caption_files(root: Path, face: str) -> dict[int | str, Path]:
    """Return the caption files of a panorama: those of the eight yaws, and "up" and "down" if they exist."""
    paths = {key: caption_path(root, face, key) for key in (*CAPTION_DEGREES, "up", "down")}
    return {key: path for key, path in paths.items() if key in CAPTION_DEGREES or path.exists()}


def pano_name(face: str) -> str:
    """Return the name of the panorama to which a face belongs.

    Example:
        >>> pano_name("scene/matterport_skybox_images/0f1e_skybox0_sami.jpg")
        '0f1e'
    """
    return face.rsplit("/", 1)[-1].rsplit("_skybox", 1)[0]


def read_faces(root: Path, row: Sequence[str], max_pixels: int | None = None) -> Tensor:
    """Decode the six faces of a panorama, given by paths relative to `root`, as uint8 [6, 3, S, S] in skybox order.

    Raises:
        FileNotFoundError: A face does not exist.
        ValueError: A face is broken or not square, or sizes differ.
    """
    paths = [root / face for face in row]
    faces = [read_image_uint8(path, max_pixels=max_pixels) for path in paths]
    size = faces[0].shape[-1]
    for path, face in zip(paths, faces, strict=True):
        if face.shape != (3, size, size):
            height, width = face.shape[1:]
            raise ValueError(
                f"{path} must be {size}x{size}, like its panorama's first face; got {width}x{height}. "
                f"Run `mvdiff data check {root}`."
            )
    return torch.stack(faces)


class Matterport3DPanoramas:
    """Panoramas of one split of a Matterport3D folder.

    The constructor detects missing and empty files without decoding any; a damaged image raises when it is read.
    `mvdiff data check` finds all of them at once.

    Args:
        root: Folder with train.npy and test.npy, or its parent.
        split: Name of the list NAME.npy, such as "train" or "test".
        on_broken: "error" stops at an incomplete panorama; "skip" drops it, counts it in `num_skipped` and logs a
            warning.
        max_pixels: Largest width x height of a face; None: `mvdiff.files.images.MAX_PIXELS`.

    Raises:
        FileNotFoundError: The list or, with `on_broken="error"`, a listed file does not exist.
        ValueError: The list is malformed, or no panorama is complete.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        on_broken: OnBroken = "error",
        max_pixels: int | None = None,
    ) -> None:
        self.root = layout_root(root)
        self.max_pixels = max_pixels
        self.split = split
        list_path = self.root / f"{split}.npy"
        rows = read_split(list_path)
        broken = _incomplete(self.root, rows)
        self.num_skipped = len(broken)
        self.rows = whole_entries(rows, broken, list_path, on_broken)

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        """Return `<scene>_<panorama>`."""
        face = self.rows[index][0]
        scene = Path(face).parent.parent.name
        return f"{scene}_{pano_name(face)}"

    def faces(self, index: int) -> Tensor:
        """Decode the six faces; see `read_faces`."""
        return read_faces(self.root, self.rows[index], self.max_pixels)

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""
        return from_uint8(perspective_from_skybox(self.faces(index), K, R, height, width))

    def captions(self, index: int) -> Captions:
        """Read the captions of the eight yaws, and of "up" and "down" if the files exist."""
        return {key: read_caption(path) for key, path in caption_files(self.root, self.rows[index][0]).items()}


def _incomplete(root: Path, rows: list[tuple[str, ...]]) -> dict[int, str]:
    """Return the first missing or empty face or caption, with the reason, by number of the incomplete row."""

    @cache  # list each folder once instead of querying every file
    def file_sizes(folder: Path) -> dict[str, int]:
        if not folder.is_dir():
            return {}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    broken = {}
    for number, row in enumerate(rows):
        paths = [root / face for face in row] + [caption_path(root, row[0], key) for key in CAPTION_DEGREES]
        for path in paths:
            size = file_sizes(path.parent).get(path.name)
            if not size:
                broken[number] = f"{path} {'does not exist' if size is None else 'is empty'}"
                break
    return broken
