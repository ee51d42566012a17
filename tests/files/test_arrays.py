"""Arrays that hold less, more or other things than their header promises."""

import io
import struct

import numpy as np
import pytest

from mvdiff.data.frame_files import read_valid_frames
from mvdiff.data.matterport3d import read_split
from mvdiff.files.arrays import read_npy
from tests.files.mutation import Memory


def npy(header: str, content: bytes = b"") -> bytes:
    """The bytes of a .npy file with a header of one's own."""
    text = (header.ljust(117) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def described(dtype: str, shape: str) -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6).reshape(2, 3),
        np.array([["a", "bé"]]),
        np.float32(3),
        np.zeros((0, 6)),
        np.array(["é"], ">U2"),
        np.zeros((0, 6), "U3"),
    ],
)
def test_arrays_come_back(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    read = read_npy(tmp_path / "a.npy")
    assert (read.dtype, read.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(described("<i8", "(4294967296,)"), b"12345678"), "its header promises 34359738368 bytes, and it has 8"),
        (npy(described("<U2147483647", "(1, 6)")), "not a valid dtype"),
        (npy(described("<U0", "(99999999999, 6)")), "it must hold numbers or strings"),
        (npy(described("|O", "(2,)"), b"cos\nsystem\n"), "it must hold numbers or strings; it has the type object"),
        (npy("[('a', '<i8')]"), "must be a numpy array"),
        (npy(described("<i8", "(-1,)"), b"12345678"), "negative size"),
        (npy(described("<i8", "(-1, -1)"), b"12345678"), "negative size"),
        (
            npy(described("<U1", "(1, 6)"), struct.pack("<6I", 97, 97, 97, 97, 97, 1 << 24)),
            "characters that Unicode lacks",
        ),
        (
            npy(described(">U1", "(1, 6)"), struct.pack(">6I", 97, 97, 97, 97, 97, 0xD800)),
            "characters that Unicode lacks",
        ),
        (npy("(" * 100), "must be a numpy array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "version 2.0 of the format is not read"),
        (b"no array", "must be a numpy array"),
        (b"", "must be a numpy array"),
    ],
)
def test_damaged_arrays_are_named_before_anything_is_allocated(tmp_path, content, reason):
    path = tmp_path / "train.npy"
    path.write_bytes(content)
    before = Memory.start()
    for read in (read_npy, read_split, read_valid_frames):
        with pytest.raises(ValueError, match=rf"train\.npy must be a numpy array \(.*({reason})|{reason}"):
            read(path)
    assert Memory.taken(before) < 64 << 20


def test_an_archive_of_arrays_is_no_array(tmp_path):
    file = io.BytesIO()
    np.savez(file, a=np.arange(3))
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=r"a\.npy must be a numpy array"):
        read_npy(tmp_path / "a.npy")
