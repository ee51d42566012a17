"""Read numpy's .npy files, which hold no more than their header promises; errors name the file."""

from __future__ import annotations

import math
import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from mvdiff.files.stored import StoredFile


def read_npy(path: Path | StoredFile) -> np.ndarray:
    """Read an array of numbers or strings; nothing is allocated before its size is compared with the file's.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a .npy file, holds Python objects, or has fewer or more bytes than its header promises.
    """
    try:
        with BytesIO(path.content) if isinstance(path, StoredFile) else open(path, "rb") as file:
            shape, dtype = _header(file)
            start, size = file.tell(), file.seek(0, os.SEEK_END)
            promised = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0:
                raise ValueError(f"its header has a negative size, {shape}")
            if dtype.hasobject or dtype.names is not None or (dtype.itemsize == 0 and math.prod(shape)):
                raise ValueError(f"it must hold numbers or strings; it has the type {dtype}")
            if promised != size - start:
                raise ValueError(f"its header promises {promised} bytes, and it has {size - start}")
            file.seek(0)
            values = npy.read_array(file, allow_pickle=False)
            if dtype.kind == "U":
                _check_characters(values)
            return values
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    except OSError as error:
        raise ValueError(f"{path} must be a numpy array ({error.strerror or error}).") from error
    except Exception as error:  # numpy evaluates the header, which can fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} must be a numpy array ({reason}).") from error


def _check_characters(values: np.ndarray) -> None:
    """Raise ValueError for characters that Unicode lacks, and for halves of surrogate pairs."""
    codes = np.ascontiguousarray(values).reshape(-1).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
        raise ValueError("its strings hold characters that Unicode lacks")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version != (1, 0):  # later versions are for structures with many fields
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
    shape, _, dtype = npy.read_array_header_1_0(file)
    return shape, dtype
