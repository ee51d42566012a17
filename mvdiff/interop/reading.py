"""Read the tensors of a torch file without running any code that the file names.

A torch file is a zip archive: `data.pkl` describes the objects, and each storage is a separate entry. A pickle can call
any function by its name. This unpickler resolves the few names that tensors need to functions of this module, and every
other name to an inert placeholder that accepts all operations and does nothing. Files with foreign objects (a config,
numpy scalars, a callback's state) can therefore be read; these objects are ignored and listed.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvdiff.models.loading import check_archive

MAX_PICKLE_BYTES = 1 << 30
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError, IndexError, ImportError),
    *(RecursionError, OverflowError, MemoryError, RuntimeError),
)
"""Exceptions that a broken pickle can raise."""


class Placeholder:
    """Inert stand-in for an object that is not part of a tensor; accepts all operations and does nothing.

    Each foreign name gets its own subclass, since a pickle may instantiate it.
    """

    __slots__ = ()
    name = "an object"
    foreign = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        """Accept any arguments."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        """Stand in for a function."""
        return self

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"

    def _nothing(self, *args: Any) -> None:
        pass

    __setattr__ = __setstate__ = __setitem__ = append = extend = add = update = _nothing


def placeholder(name: str, foreign: bool = True) -> type[Placeholder]:
    """Return a placeholder class.

    Args:
        name: Name of the class or function that it replaces.
        foreign: False for a kind of tensor that is not supported.
    """
    return type("Placeholder", (Placeholder,), {"__slots__": (), "name": name, "foreign": foreign})


class _Dict(dict):
    """Dictionary that ignores its extra state, such as the metadata of a state dict."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(NamedTuple):  # tuples: a pickle cannot change them once they are made and checked
    """Description of a storage, an entry of the archive."""

    dtype: torch.dtype
    key: str
    numel: int


class _StoredTensor(NamedTuple):
    """Description of a tensor that is not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Known:
    """Callable for a name that tensors need; returns a description."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"a pickle must not change {self._make.__name__}")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *stride))
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(stride):
        return placeholder("a tensor without a storage", foreign=False)()
    return _StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _make_dict(*pairs: Any) -> _Dict:
    return _Dict(*pairs)


_KNOWN = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "collections.OrderedDict": _make_dict,
}
_TENSORS = "torch._utils._rebuild_"
"""Prefix of torch's functions that make tensors; unknown ones make unsupported kinds."""


class _Unpickler(pickle._Unpickler):
    """Unpickler that builds only plain values, `_StoredTensor`s and placeholders.

    It derives from the Python implementation: the C one allocates a memo as long as the pickle asks for, so five bytes
    can claim gigabytes. It has no BYTEARRAY8, which allocates any length before it reads, and which torch never writes.
    """

    dispatch = pickle._Unpickler.dispatch.copy()
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.ignored: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a pickled global to an inert stub, never to the real object."""
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _Known(_KNOWN[full])
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        self.ignored.add(full)
        return placeholder(full, foreign=not full.startswith(_TENSORS))

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage, which is read with its tensor."""
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype):
            _, dtype, key, _, numel = pid
            if type(key) is str and type(numel) is int and numel >= 0:
                return _Storage(dtype, key, numel)
        return placeholder("a storage of an unknown kind", foreign=False)()


@dataclass(frozen=True)
class CheckpointContent:
    """Content of a checkpoint file.

    Attributes:
        state: Weights by name, on the CPU, memory-mapped from the file.
        entries: Names of the checkpoint's other entries, which are ignored.
        ignored: Names of the foreign classes and functions that the file refers to; none of them was loaded.
    """

    state: dict[str, Tensor]
    entries: tuple[str, ...]
    ignored: tuple[str, ...]


def read_lightning_file(path: str | Path) -> CheckpointContent:
    """Read the weights of an untrusted Lightning checkpoint or bare state dict without running code in it.

    Args:
        path: File written by `torch.save` of torch 1.6 or later.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another format or is damaged, or a weight is not a plain tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be an existing file; got {path}.")
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            values, ignored, root = _unpickled(archive, path)
            entries = {info.filename.removeprefix(root): info for info in archive.infolist()}
            state = values.get("state_dict", values) if isinstance(values, dict) else None
            if not isinstance(state, dict) or not state:
                raise ValueError(
                    f"checkpoint must be a Lightning checkpoint with a state_dict; got {_kind(values)}, in {path}."
                )
            mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
            names = [name for name in state if not isinstance(name, str)]
            if names:
                raise ValueError(f"names in state_dict must be texts; got a {type(names[0]).__name__}, in {path}.")
            weights = {name: _tensor(value, name, entries, mapped, path) for name, value in state.items()}
    except (zipfile.BadZipFile, OSError, RuntimeError, OverflowError, struct.error) as error:
        raise ValueError(f"checkpoint must be a complete file; got {error}, in {path}. Download it again.") from error
    others = () if state is values else tuple(sorted(name for name in values if isinstance(name, str)))
    others = tuple(name for name in others if name != "state_dict")
    return CheckpointContent(weights, others, tuple(sorted(ignored)))


def _unpickled(archive: zipfile.ZipFile, path: Path) -> tuple[Any, set[str], str]:
    """Return the archive's objects, its foreign names, and the folder of its entries."""
    pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"checkpoint must have one data.pkl, as torch.save writes; got {len(pickles)}, in {path}.")
    [info] = pickles
    root = info.filename.removesuffix("data.pkl")
    if info.file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"data.pkl must be below 1 GiB; got {info.file_size} bytes, in {path}.")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError(f"checkpoint must be little-endian; got {archive.read(order)[:16]!r}, in {path}.")
    unpickler = _Unpickler(archive.read(info))
    try:
        return unpickler.load(), unpickler.ignored, root
    except _BROKEN as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"data.pkl of the checkpoint must be a readable pickle; got {what}, in {path}.") from error


def _tensor(
    value: Any, name: str, entries: Mapping[str, zipfile.ZipInfo], mapped: torch.UntypedStorage, path: Path
) -> Tensor:
    """Return the tensor of a description, from the mapped file."""
    if not isinstance(value, _StoredTensor):
        what = value if isinstance(value, type) else type(value)
        advice = (
            "No code in it was run; do not use this file."
            if issubclass(what, Placeholder) and what.foreign
            else "If you trust the file, save it again with that entry as a plain tensor, or without it."
        )
        raise ValueError(
            f"state_dict must have only plain tensors; got {_kind(value)} as {name!r}, in {path}. {advice}"
        )
    storage, itemsize = value.storage, value.storage.dtype.itemsize
    info = entries.get(f"data/{storage.key}")
    last = value.offset + sum((n - 1) * step for n, step in zip(value.shape, value.stride, strict=True))
    empty = 0 in value.shape
    larger = math.prod(value.shape) > storage.numel  # with a stride of 0 a few bytes would stand for any size
    if info is None or storage.numel * itemsize > info.file_size or larger or (not empty and last >= storage.numel):
        raise ValueError(f"checkpoint must be complete; got too few bytes of {name!r}, in {path}.")
    if empty:
        return torch.empty(value.shape, dtype=storage.dtype)
    start = _start(path, info)
    values = mapped[start : start + storage.numel * itemsize]
    flat = torch.tensor([], dtype=storage.dtype).set_(values.clone() if start % itemsize else values)
    return flat.as_strided(value.shape, value.stride, value.offset)


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the offset of an entry's bytes, after its local header, name and extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name_length + extra_length


def _kind(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Placeholder):
        return f"<{value.name}, not loaded>"
    return repr(value) if isinstance(value, Placeholder) else type(value).__name__
