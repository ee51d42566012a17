"""Write sample folders; a killed run leaves no sample that looks complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mvdiff.files.paths import visible
from mvdiff.files.writing import is_temporary, move_into, sync_files, sync_folders, temporary_beside, write_whole
from mvdiff.samples.depths import to_millimetres
from mvdiff.samples.folders import (
    CUBE_NAME,
    DEPTH_NAME,
    GIVEN_NAME,
    PANORAMA_NAME,
    is_complete,
    numbered,
    picture_files,
)
from mvdiff.samples.photo_sphere import photo_sphere_xmp, save_panorama
from mvdiff.samples.pixels import png_bytes
from mvdiff.samples.record import RECORD_NAME, SampleRecord


class SampleWriter:
    """Write one sample view by view, without holding all of it in memory.

    `finish` writes `sample.json` last. What a killed run left is removed at the start: an incomplete sample, and hidden
    files and folders. A complete sample stays until `finish` replaces it; everything else in its folder stays, too.

    Args:
        folder: Folder of this sample; created if absent.
        overwrite: Replace a complete sample.

    Raises:
        FileExistsError: The folder holds a complete sample and `overwrite` is False, or other files and no sample.
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> writer = SampleWriter(folder)
        >>> writer.add(0, np.zeros((6, 8, 3), np.uint8), depth=np.ones((6, 8)))
        >>> sorted(path.name for path in writer.finish(SampleRecord("room", ["a sofa"])).iterdir())
        ['0.png', 'depth', 'sample.json']
    """

    def __init__(self, folder: str | Path, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._added: set[int] = set()
        check_sample_folder(self.folder, overwrite)
        self._replaces = is_complete(self.folder)
        self._place = temporary_beside(self.folder / "new") if self._replaces else self.folder
        with self._writing():
            _remove_left_over(self.folder)
            self._place.mkdir(parents=True, exist_ok=True)
            if not self._replaces:
                for path in _own_files(self.folder):
                    path.unlink()
                for part in (DEPTH_NAME, GIVEN_NAME, CUBE_NAME):
                    if (self.folder / part).is_dir() and not any((self.folder / part).iterdir()):
                        (self.folder / part).rmdir()

    def add(
        self,
        view: int,
        image: Tensor | np.ndarray,
        depth: Tensor | np.ndarray | None = None,
        given: Tensor | np.ndarray | None = None,
    ) -> None:
        """Write a view.

        Args:
            view: Index of the view, from 0.
            image: uint8 [H, W, 3].
            depth: [H, W] z-depth in metres, 0 where unknown; or None.
            given: uint8 [H, W, 4], alpha 255 for given pixels and 0 elsewhere; or None.

        Raises:
            ValueError: A shape, dtype or range is wrong.
            OSError: The folder cannot be written.
        """
        image = _check_uint8(image, "image", "[H, W, 3]", 3)
        depths = None if depth is None else _check_depths(depth[None], image[None], str(self.folder))
        given = None if given is None else _check_uint8(given, "given", "[H, W, 4]", 3, channels=4)
        parts = {GIVEN_NAME: given, DEPTH_NAME: None if depths is None else depths[0], "": image}
        with self._writing():
            for name, pixels in parts.items():
                if pixels is not None:
                    (self._place / name).mkdir(exist_ok=True)
                    write_whole(self._place / name / f"{view}.png", png_bytes(pixels), sync=False)
        self._added.add(view)

    def finish(self, record: SampleRecord, panorama: Tensor | np.ndarray | None = None) -> Path:
        """Write the panorama and `sample.json`; return the folder.

        Args:
            record: Content of `sample.json`, with one prompt per view.
            panorama: uint8 [H', W', 3], or None; see `save_panorama`. Viewers open it at view 0.

        Raises:
            ValueError: Views are missing, or the panorama has a wrong shape or dtype.
            OSError: The folder cannot be written; the sample stays incomplete.
        """
        _check_counts(record, len(self._added))
        if self._added != set(range(len(self._added))):
            raise ValueError(
                f"views must be added from 0 to {len(self._added) - 1}; got {sorted(self._added)}, in sample "
                f"{record.sample_id!r}."
            )
        if panorama is not None:
            panorama = _check_panorama(panorama)
        with self._writing():
            if panorama is not None:
                save_panorama(self._place / PANORAMA_NAME, panorama, view=record.first_view())
            pictures = _own_files(self._place)
            sync_files(pictures)  # the disk has every picture before it has the record
            sync_folders(*{path.parent for path in pictures})
            write_json(self._place / RECORD_NAME, asdict(record))
            if self._replaces:
                move_into(self._place, self.folder, replaced=_own_files(self.folder), last=RECORD_NAME)
        return self.folder

    def discard(self) -> None:
        """Remove what was written aside for a complete sample, which stays; leave an incomplete one to be seen."""
        if self._replaces:
            shutil.rmtree(self._place, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            if error.errno is None:  # of `check_plain`, not of the disk
                raise
            raise OSError(
                error.errno,
                f"sample folder {self.folder} must be writable; got {error.strerror or error}. Free space or choose "
                "another folder, then run again: complete samples are kept",
            ) from error


def write_sample(
    folder: str | Path,
    record: SampleRecord,
    views: Tensor | np.ndarray,
    panorama: Tensor | np.ndarray | None = None,
    overwrite: bool = False,
    depths: Tensor | np.ndarray | None = None,
    given: Tensor | np.ndarray | None = None,
) -> Path:
    """Write one complete sample folder and return it; see `SampleWriter` for the other arguments and the errors.

    All arguments are checked before the first file is written.

    Args:
        folder: Folder of this sample; created if absent.
        record: Content of `sample.json`, with one prompt per view.
        views: uint8 [V, H, W, 3].
        panorama: uint8 [H', W', 3], or None.
        overwrite: Replace a complete sample.
        depths: [V, H, W] z-depth in metres, 0 where unknown; or None.
        given: uint8 [V, H, W, 4], alpha 255 for given pixels and 0 elsewhere; or None.
    """
    views = _check_uint8(views, "views", "[V, H, W, 3]", 4)
    if panorama is not None:
        panorama = _check_panorama(panorama)
    if depths is not None:
        _check_depths(depths, views, f"sample {record.sample_id!r}")
    if given is not None and tuple(given.shape) != (*views.shape[:-1], 4):
        raise ValueError(f"given must be uint8 of shape {[*views.shape[:-1], 4]}; got {list(given.shape)}.")
    _check_counts(record, len(views))
    writer = SampleWriter(folder, overwrite)
    try:
        for i, view in enumerate(views):
            writer.add(i, view, *(None if part is None else part[i] for part in (depths, given)))
        return writer.finish(record, panorama)
    except BaseException:
        writer.discard()
        raise


def check_sample_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Check that a sample may be written to a folder.

    Raises:
        FileExistsError: It holds a complete sample and `overwrite` is False, or it has no `sample.json` but files that
            no sample has, such as a scene's.
    """
    folder = Path(folder)
    if is_complete(folder):
        if not overwrite:
            raise FileExistsError(f"{folder} already holds a complete sample. Pass overwrite to replace it.")
        return
    foreign = _foreign(folder, set(_own_files(folder))) if folder.is_dir() else None
    if foreign is not None:
        raise FileExistsError(
            f"{folder} must be new, empty or a sample folder; it has {foreign.relative_to(folder)} and no "
            f"{RECORD_NAME}. Write to another folder."
        )


def _own_files(folder: Path) -> list[Path]:
    """List the files of a sample, complete or not; `sample.json` first."""
    parts = (folder, folder / DEPTH_NAME, folder / GIVEN_NAME)
    record = [path for path in (folder / RECORD_NAME,) if path.is_file()]
    return [*record, *(path for part in parts for path in numbered(part, ".png")), *picture_files(folder)]


def _remove_left_over(folder: Path) -> None:
    """Remove the temporary files and folders that a killed run left in a folder."""
    for part in (folder, folder / DEPTH_NAME, folder / GIVEN_NAME):
        for path in [path for path in part.glob(".*") if is_temporary(path.name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _foreign(folder: Path, own: set[Path]) -> Path | None:
    """Return the first file or folder that no sample has, None if there is none."""
    for path in visible(folder):
        if path in own:
            continue
        if path.name not in (DEPTH_NAME, GIVEN_NAME, CUBE_NAME) or not path.is_dir():
            return path
        inner = next((one for one in visible(path) if one not in own), None)
        if inner is not None:
            return inner
    return None


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically: readers see the old file or the complete new one.

    Raises:
        OSError: The file cannot be written, or is no plain file; no partial file remains.
    """
    path = Path(path)
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _check_uint8(values: Tensor | np.ndarray, name: str, shape: str, ndim: int, channels: int = 3) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != channels:
        raise ValueError(
            f"{name} must be uint8 of shape {shape}; got {array.dtype} {list(array.shape)}. "
            "Use to_uint8 and put the channels last."
        )
    return array


def _check_panorama(panorama: Tensor | np.ndarray) -> np.ndarray:
    panorama = _check_uint8(panorama, "panorama", "[H, W, 3]", 3)
    photo_sphere_xmp(*panorama.shape[:2])
    return panorama


def _check_depths(depths: Tensor | np.ndarray, views: np.ndarray, where: str) -> np.ndarray:
    if tuple(depths.shape) != views.shape[:-1]:
        raise ValueError(
            f"depths must have the shape of the views, {list(views.shape[:-1])}; got {list(depths.shape)}, in {where}."
        )
    return to_millimetres(depths, where)


def _check_counts(record: SampleRecord, num_views: int) -> None:
    if len(record.prompts) != num_views:
        raise ValueError(
            f"prompts must be one per view ({num_views}); got {len(record.prompts)}, in sample {record.sample_id!r}."
        )
    for name, described in (("rig", record.rig), ("cameras", record.cameras)):
        if described is not None and len(described["views"]) != num_views:
            raise ValueError(
                f"{name} must have as many views as the sample ({num_views}); got {len(described['views'])}, in sample "
                f"{record.sample_id!r}."
            )
