"""The Matterport3D layout: six skybox faces per panorama and a caption file every 45 degrees (docs/data.md).

```
root/train.npy, test.npy                                 rows of 6 relative face paths
root/<scene>/matterport_skybox_images/<pano>_skybox{0..5}_sami.jpg
root/<scene>/blip3/<pano>_<deg>.txt                      deg in 0, 45, ..., 315; also up, down; line 1 is the prompt
```
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from mvdiff.data.captions import read_caption
from mvdiff.data.counts import check_counts
from mvdiff.data.panoramas import Captions, OnBroken, whole_entries
from mvdiff.data.pictures import views_of_picture
from mvdiff.files.arrays import read_npy
from mvdiff.files.images import CHECK, read_image_uint8
from mvdiff.files.paths import below, comparable, existing, expanded, kind_of, lack_of, listed_name, same_name, visible
from mvdiff.files.stored import StoredFile
from mvdiff.geometry.panorama import equirectangular_from_skybox

CAPTION_DEGREES = tuple(range(0, 360, 45))
"""Yaws, in degrees, with a caption file each."""


def layout_root(root: str | Path) -> Path:
    """Return the folder that holds the split lists: `root` itself or `root/mp3d_skybox`."""
    root = expanded(root)
    inner = root / "mp3d_skybox"
    return inner if inner.is_dir() and not split_lists(root) else root


def split_lists(root: Path) -> list[Path]:
    """List the split lists of a folder (`*.npy`), sorted."""
    return visible(root, ".npy") if root.is_dir() else []


def read_split(path: Path) -> list[tuple[str, ...]]:
    """Read a split list.

    Returns:
        Six face paths per panorama, relative to the list's folder: up, yaw 270, 0, 90, 180, down.

    Raises:
        FileNotFoundError: The list does not exist.
        ValueError: The list is not an [N, 6] array of strings with N > 0, or a path leads out of the list's folder.
    """
    path = existing(path)
    make = f"Run `mvdiff data split {path.parent}` to make it."
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {make}")
    try:
        rows = read_npy(path)
    except ValueError as error:
        raise ValueError(f"{error} {make}") from error
    if rows.ndim != 2 or rows.shape[1] != 6 or rows.dtype.kind != "U":
        raise ValueError(f"{path} must hold strings of shape [N, 6]; got {rows.dtype} of shape {rows.shape}. {make}")
    if not len(rows):
        raise ValueError(f"{path} must list at least one panorama; got none. {make}")
    return [
        tuple(_face_path(face, f"{path} row {number}, column {column}") for column, face in enumerate(row))
        for number, row in enumerate(rows.tolist())
    ]


def _face_path(face: str, where: str) -> str:
    """Check the path of a face; captions are written beside its folder, which must not be the list's own."""
    face = listed_name(face, where)
    if "/" not in face:
        raise ValueError(f"{where} must be <scene>/<folder>/<face>; got {face!r}.")
    return face


def caption_path(root: Path, face: str, key: int | str) -> Path:
    """Return the caption file for a yaw, "up" or "down" of the panorama to which a face belongs; it need not exist."""
    return below(root, _caption_name(face, key))


def _caption_name(face: str, key: int | str) -> str:
    return f"{PurePosixPath(face).parent.parent}/blip3/{pano_name(face)}_{key}.txt"


def identity(row: Sequence[str]) -> tuple[str, str]:
    """Return what identifies a panorama: the names of its scene and of itself.

    Example:
        >>> identity(["v1/scene/matterport_skybox_images/0f1e_skybox0_sami.jpg"])
        ('scene', '0f1e')
    """
    return PurePosixPath(row[0]).parent.parent.name, pano_name(row[0])


def caption_files(root: Path, face: str) -> dict[int | str, Path]:
    """Return the caption files of a panorama: those of the eight yaws, and "up" and "down" if they exist."""
    paths = {key: caption_path(root, face, key) for key in (*CAPTION_DEGREES, "up", "down")}
    return {key: path for key, path in paths.items() if key in CAPTION_DEGREES or kind_of(path) != "nothing"}


def pano_name(face: str) -> str:
    """Return the name of the panorama to which a face belongs.

    Example:
        >>> pano_name("scene/matterport_skybox_images/0f1e_skybox0_sami.jpg")
        '0f1e'
    """
    return same_name(face).rsplit("/", 1)[-1].rsplit("_skybox", 1)[0]


def read_faces(root: Path, row: Sequence[str], max_pixels: int | None = None) -> Tensor:
    """Decode the six faces of a panorama, given by paths relative to `root`; see `decode_faces`."""
    return decode_faces([below(root, face) for face in row], max_pixels)


def decode_faces(paths: Sequence[Path | StoredFile], max_pixels: int | None = None) -> Tensor:
    """Decode the six faces of a panorama as uint8 [6, 3, S, S] in skybox order.

    Raises:
        FileNotFoundError: A face does not exist.
        ValueError: A face is broken or not square, or sizes differ.
    """
    faces = [read_image_uint8(path, max_pixels=max_pixels) for path in paths]
    size = faces[0].shape[-1]
    for path, face in zip(paths, faces, strict=True):
        if face.shape != (3, size, size):
            height, width = face.shape[1:]
            raise ValueError(
                f"{path} must be {size}x{size}, like its panorama's first face; got {width}x{height}. {CHECK}"
            )
    return torch.stack(faces)


def panorama_of_faces(faces: Tensor) -> Tensor:
    """Convert six faces to an equirectangular image uint8 [3, H, 2 H], as dense as the middle of a face."""
    height = round(math.pi / 2 * faces.shape[-1])
    return equirectangular_from_skybox(faces, height, 2 * height).round().to(torch.uint8)


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
        check_counts(max_pixels=max_pixels)
        self.max_pixels = max_pixels
        self.split = split
        list_path = existing(self.root / f"{split}.npy")
        rows = read_split(list_path)
        _check_listed_once(list_path, rows)
        broken = _incomplete(self.root, rows)
        self.num_skipped = len(broken)
        self.rows = whole_entries(rows, broken, list_path, on_broken)

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        """Return `<scene>_<panorama>`."""
        return "_".join(identity(self.rows[index]))

    def faces(self, index: int) -> Tensor:
        """Decode the six faces; see `decode_faces`."""
        return decode_faces(self.picture_files(index), self.max_pixels)

    picture = faces

    def picture_files(self, index: int) -> list[Path]:
        """Return the files of the six faces, in skybox order."""
        return [below(self.root, face) for face in self.rows[index]]

    def panorama(self, index: int) -> Tensor:
        """Convert a panorama to an equirectangular image uint8 [3, H, 2 H]; see `panorama_of_faces`."""
        return panorama_of_faces(self.faces(index))

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""
        return views_of_picture(self.faces(index), K, R, height, width)

    def captions(self, index: int) -> Captions:
        """Read the captions of the eight yaws, and of "up" and "down" if the files exist."""
        return {key: read_caption(path) for key, path in caption_files(self.root, self.rows[index][0]).items()}


def _check_listed_once(path: Path, rows: Sequence[Sequence[str]]) -> None:
    first: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        if (other := first.setdefault(identity(row), number)) != number:
            raise ValueError(
                f"{path} must list each panorama once; got {'/'.join(identity(row))} twice, in rows {other} and "
                f"{number}. Run `mvdiff data split {path.parent} --overwrite` to make it again."
            )


def _incomplete(root: Path, rows: list[tuple[str, ...]]) -> dict[int, str]:
    """Return the first missing or empty face or caption, with the reason, by number of the incomplete row."""

    @cache  # list each folder once instead of querying every file
    def file_sizes(folder: str) -> dict[str, int]:
        path = below(root, folder)
        if kind_of(path) != "folder":
            return {}
        with os.scandir(path) as found:
            return {comparable(one.name): one.stat().st_size for one in found if kind_of(one) == "file"}

    broken = {}
    for number, row in enumerate(rows):
        for name in [*row, *(_caption_name(row[0], key) for key in CAPTION_DEGREES)]:
            folder, _, file = name.rpartition("/")
            size = file_sizes(folder).get(comparable(file))
            if not size:
                broken[number] = f"{root / name} {'is empty' if size == 0 else lack_of(root / name)}"
                break
    return broken
