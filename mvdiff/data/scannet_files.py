"""Files of the ScanNet layout: where scenes lie, and the numbers, lists and matrices of one (`mvdiff.data.scannet`)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEY_FRAMES = "key_frame_0.6.txt"
"""Name of the list of a scene's key frames."""
VALID_FRAMES = "valid_frames.npy"
"""Name of the list of a scene's usable frames."""


def layout_root(root: str | Path) -> Path:
    """Return the folder that holds train/ and test/: `root` itself or `root/scannet`."""
    root = Path(root)
    inner = root / "scannet"
    return inner if inner.is_dir() and not any((root / split).is_dir() for split in ("train", "test")) else root


def scene_folders(folder: Path) -> list[Path]:
    """Return the scenes in a folder, sorted: the subfolders that have a folder `color`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no scene.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of scenes; it does not exist. Correct the path.")
    scenes = sorted(path for path in folder.iterdir() if (path / "color").is_dir())
    if not scenes:
        raise ValueError(f"{folder} must hold at least one scene (a folder with color/, depth/ and pose/); got none.")
    return scenes


def read_pose(path: Path) -> np.ndarray:
    """Read a world-from-camera pose [4, 4], float64; its numbers may be inf or NaN.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not 16 numbers, or finite and no rotation with a translation.
    """
    pose = _read_matrix(path, (16,)).reshape(4, 4)
    if np.isfinite(pose).all():
        R = pose[:3, :3]
        if np.abs(R @ R.T - np.eye(3)).max() > 0.02 or np.linalg.det(R) < 0 or pose[3].tolist() != [0, 0, 0, 1]:
            raise ValueError(f"{path} must be a rotation and a translation (world-from-camera); got {pose.tolist()}.")
    return pose


def read_intrinsics(path: Path, height: int, width: int) -> Tensor:
    """Read intrinsics [3, 3], float64, of images of a size.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no 3x3 or 4x4 matrix, or made for images of another size.
    """
    values = _read_matrix(path, (9, 16))
    side = 3 if values.size == 9 else 4
    K = values.reshape(side, side)[:3, :3]
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0 and K[2].tolist() == [0, 0, 1]):
        raise ValueError(f"{path} must be intrinsics with positive focal lengths; got {K.tolist()}.")
    for name, middle, size in (("width", K[0, 2], width), ("height", K[1, 2], height)):
        if abs(middle / size - 0.5) > 0.2:  # intrinsics of images 1.4 times as large, or smaller by that, fall out
            raise ValueError(
                f"{path} must be in pixels of the depth images, {width}x{height}; got a principal point "
                f"({K[0, 2]:g}, {K[1, 2]:g}), far from the middle of that {name}. Give the intrinsics of that size."
            )
    return torch.from_numpy(K.copy())


def read_key_frames(path: Path) -> list[int]:
    """Read a list of frames, one number a line: ascending, each once.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a frame number, or there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must list the scene's key frames; it does not exist. Run `mvdiff data keyframes {path.parent}`."
        )
    frames = set()
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if line.strip():
            if not (line.strip().isascii() and line.strip().isdecimal()):
                raise ValueError(f"{path}:{number} must be a frame number; got {line.strip()[:40]!r}. Correct it.")
            frames.add(int(line))
    if not frames:
        raise ValueError(
            f"{path} must list at least one frame; got none. Run `mvdiff data keyframes {path.parent} --overwrite`."
        )
    return sorted(frames)


def read_valid_frames(path: Path) -> list[int]:
    """Read a list of usable frames: a numpy array of frame numbers, returned ascending, each once.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such array.
    """
    make = f"Run `mvdiff data keyframes {path.parent} --overwrite` to make it anew."
    try:
        frames = np.array(np.load(path, allow_pickle=False)).reshape(-1)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} must exist; it does not. Run `mvdiff data keyframes {path.parent}` to make it."
        ) from error
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be a numpy array of frame numbers; got {error}. {make}") from error
    if frames.dtype.kind == "f":
        frames = frames.astype(np.float64)
    whole = frames.dtype.kind in "iu" or (frames.dtype.kind == "f" and (frames == np.floor(frames)).all())
    if not whole or (frames.size and not (frames.min() >= 0 and frames.max() < 2**31)):
        raise ValueError(
            f"{path} must be a numpy array of frame numbers; got {frames.dtype} values such as "
            f"{frames[:5].tolist()}. {make}"
        )
    return sorted({int(frame) for frame in frames})


def numbers_in(folder: Path) -> list[int]:
    """Return the frame numbers of a folder's files, ascending; none where there is no folder."""
    if not folder.is_dir():
        return []
    stems = {name.rsplit(".", 1)[0] for name in os.listdir(folder)}
    return sorted(int(stem) for stem in stems if stem.isdecimal() and str(int(stem)) == stem)


def _read_matrix(path: Path, sizes: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.array([float(word) for word in path.read_text(encoding="utf-8").split()])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} must exist; it does not. Run `mvdiff data check` on the data set's folder."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers; got {error}. Fetch it again.") from error
    if values.size not in sizes:
        raise ValueError(f"{path} must hold {' or '.join(map(str, sizes))} numbers; got {values.size}. Fetch it again.")
    return values
