"""Lists of frames and captions that mvdiff stores in recordings of any layout.

```
<recording>/key_frame_0.6.txt   key frames, one number per line  (`mvdiff data keyframes`)
           /valid_frames.npy    numbers of the usable frames     (`mvdiff data keyframes`)
           /prompt/<i>.txt      line 1 is the prompt of frame i  (`mvdiff data caption`)
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvdiff.files.arrays import read_npy
from mvdiff.files.paths import existing, visible
from mvdiff.files.text import read_lines

KEY_FRAMES = "key_frame_0.6.txt"
VALID_FRAMES = "valid_frames.npy"
PROMPTS = "prompt"


def read_key_frames(path: Path) -> list[int]:
    """Read a list of frame numbers, one per line; return them ascending, without repetitions.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line is not a frame number, or the list is empty.
    """
    path = existing(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must list the scene's key frames; it does not exist. Run `mvdiff data keyframes {path.parent}`."
        )
    frames = set()
    for number, text in enumerate(read_lines(path), start=1):
        if text:
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise ValueError(f"{path}:{number} must be a frame number; got {text[:40]!r}.")
            frames.add(int(text))
    if not frames:
        raise ValueError(
            f"{path} must list at least one frame; got none. Run `mvdiff data keyframes {path.parent} --overwrite`."
        )
    return sorted(frames)


def read_valid_frames(path: Path) -> list[int]:
    """Read a numpy array of frame numbers; return them ascending, without repetitions.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds something else.
    """
    path = existing(path)
    make = f"`mvdiff data keyframes {path.parent}"
    must = f"{path} must be a numpy array of frame numbers; got"
    try:
        frames = read_npy(path).reshape(-1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist. Run {make}` to make it.") from error
    except ValueError as error:
        raise ValueError(f"{error} Run {make} --overwrite`.") from error
    if frames.dtype.kind == "f":
        frames = frames.astype(np.float64)
    whole = frames.dtype.kind in "iu" or (frames.dtype.kind == "f" and (frames == np.floor(frames)).all())
    if not whole or (frames.size and not (frames.min() >= 0 and frames.max() < 2**31)):
        raise ValueError(f"{must} {frames.dtype} values such as {frames[:5].tolist()}. Run {make} --overwrite`.")
    return sorted({int(frame) for frame in frames})


def numbers_in(folder: Path) -> list[int]:
    """Return the numbers of files named `<number>.<suffix>` in a folder, ascending; empty if it does not exist."""
    if not folder.is_dir():
        return []
    stems = {path.name.rsplit(".", 1)[0] for path in visible(folder)}
    return sorted(int(stem) for stem in stems if stem.isdecimal() and str(int(stem)) == stem)


def check_listed(path: Path, frame: int, count: int) -> None:
    """Check that `frame` is an index in a list of `count` frames.

    Raises:
        FileNotFoundError: The list, in the file `path`, has no such frame.
    """
    if not 0 <= frame < count:
        raise FileNotFoundError(f"{path} must list frame {frame}; it has frames 0 to {count - 1}.")


def folders_of(path: Path) -> tuple[Path, ...]:
    """Return the folders to which names in a file are relative: its own and, for a link, that of its target."""
    return (path.parent, path.resolve().parent) if path.is_symlink() else (path.parent,)
