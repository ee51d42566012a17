"""Features and logits of images on disk, so that a killed run continues and a reference is measured once.

A row is what one network gives for one image. It is kept under the network's weights hash, its variant (how images are
resized), the kind of device, the version of torch, the number of images in the forward pass, and the hash of the
image's pixels. The number of images is part of the key because it changes the last bits; the other images in the pass
do not matter. So a row is what the network would give again, and no number depends on the cache.

Each file holds at least 256 rows of one network, or the last ones of a pass, and is written as a whole. Processes and
runs may share a folder. A file that is damaged or of something else is named and not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mvdiff.eval.row_storage import extend
from mvdiff.eval.weights import tensors_hash
from mvdiff.files.paths import kind_of, visible
from mvdiff.files.text import parse_json
from mvdiff.files.writing import write_whole

_log = logging.getLogger(__name__)

ROWS_PER_FILE = 256
_OPEN_FILES = 2
"""Files of one network that are kept in memory."""
_FORMAT = "mvdiff features 1"
_KEY = re.compile("[0-9a-f]{64}")

Row = Mapping[str, Tensor]
"""Vectors by name, such as `{"features": [D], "logits": [C]}`."""


class Cached:
    """Base of networks whose rows a cache may keep.

    Attributes:
        cache: The cache; None: compute every row.
    """

    cache: FeatureCache | None = None


class FeatureCache:
    """Rows of networks in a folder.

    Args:
        folder: Folder of the cache; created when the first rows are written.

    Attributes:
        device: Kind of device on which rows are computed, such as "cpu".
        failed: Reason why rows could not be written, or None.

    Example:
        >>> import tempfile
        >>> cache, key = FeatureCache(tempfile.mkdtemp()), 64 * "0"
        >>> cache.fetch({"network": "n"}, [key], lambda: {"features": torch.ones(1, 2)})
        {'features': tensor([[1., 1.]])}
        >>> cache.fetch({"network": "n"}, [key], lambda: {"features": torch.zeros(1, 2)})
        {'features': tensor([[1., 1.]])}
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.device = "cpu"
        self.failed: str | None = None
        self._parts: dict[Path, _Part] = {}

    def fetch(
        self, about: Mapping[str, str | int], keys: Sequence[str], compute: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the rows of N images; compute all of them in one pass if any is missing.

        Args:
            about: Everything that rows depend on beside the images; the device and the version of torch are added.
            keys: SHA-256 of each image, in hex.
            compute: Computes the rows [N, W] by name.

        Returns:
            Rows [N, W] by name, on the CPU. A row that was stored is returned as it was stored.
        """
        part = self._part({**about, "device": self.device, "torch": torch.__version__})
        found = {key: row for key in dict.fromkeys(keys) if (row := part.get(key)) is not None}
        if len(found) < len(set(keys)):
            computed = {name: values.detach().cpu() for name, values in compute().items()}
            are_finite = all(bool(torch.isfinite(values).all()) for values in computed.values())
            for index, key in enumerate(keys):
                if key not in found:
                    found[key] = {name: values[index] for name, values in computed.items()}
                    if are_finite:
                        part.waiting.add(key, found[key])
        rows = {name: torch.stack([found[key][name] for key in keys]) for name in found[keys[0]]}
        if len(part.waiting) >= ROWS_PER_FILE:
            self._write(part)
        return rows

    def flush(self) -> None:
        """Write the rows that wait in memory."""
        for part in self._parts.values():
            if len(part.waiting):
                self._write(part)

    def refresh(self) -> None:
        """Look again at what other processes and runs have written."""
        for part in self._parts.values():
            part.index()

    def rows_of(self, weights_hash: str, variant: str) -> Callable[[str], Row | None]:
        """Return a function that finds the row of an image by its key, on any device and in a pass of any size.

        Args:
            weights_hash: Hash of the network's weights.
            variant: Variant of the network.
        """
        parts = []
        for folder in visible(self.folder) if kind_of(self.folder) == "folder" else []:
            about = next(filter(None, map(_about_of, visible(folder, ".safetensors"))), None)
            if about is not None and (about.get("weights_hash"), about.get("variant")) == (weights_hash, variant):
                parts.append(_Part(folder, about))
        return lambda key: next((row for part in parts if (row := part.get(key)) is not None), None)

    def _part(self, about: Mapping[str, str | int]) -> _Part:
        path = self.folder / _folder_name(about)
        if path not in self._parts:
            self._parts[path] = _Part(path, about)
        return self._parts[path]

    def _write(self, part: _Part) -> None:
        """Write the waiting rows; after a failure, go on without writing."""
        if self.failed is None:
            try:
                part.write()
            except OSError as error:
                self.failed = f"{self.folder} must be a writable folder with free space ({error.strerror or error})."
                _log.warning("Features are not cached: %s", self.failed)
        part.waiting.clear()


class _Waiting:
    """Rows that wait to be written; their storage is reused after each write."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.places)

    def add(self, key: str, row: Row) -> None:
        self.places[key] = len(self)
        for name, value in row.items():
            extend(self._rows.setdefault(name, []), value[None])

    def get(self, key: str) -> Row:
        return {name: rows[self.places[key]] for name, rows in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        return {name: rows for name, (rows,) in self._rows.items()}

    def clear(self) -> None:
        self.places = {}
        self._rows = {name: [rows[:0]] for name, rows in self.tensors().items()}


class _Part:
    """Rows of one network: a folder of files, and rows that wait to be written."""

    def __init__(self, folder: Path, about: Mapping[str, str | int]) -> None:
        self.folder, self.about = folder, _canonical(about)
        self.waiting = _Waiting()
        self._named: set[str] = set()
        self._opened: dict[Path, dict[str, Tensor]] = {}
        self.index()

    def index(self) -> None:
        """Note which file has which row; the first file by name wins."""
        self._places: dict[str, tuple[Path, int]] = {}
        for path in visible(self.folder, ".safetensors") if kind_of(self.folder) == "folder" else []:
            try:
                for number, key in enumerate(_read_keys(path, self.about)):
                    self._places.setdefault(key, (path, number))
            except _UNREADABLE as error:
                self._refuse(path, error)

    def get(self, key: str) -> Row | None:
        """Return a row, or None."""
        if key in self.waiting.places:
            return self.waiting.get(key)
        if key in self._places:
            path, number = self._places[key]
            try:
                return {name: values[number] for name, values in self._open(path).items()}
            except _UNREADABLE as error:
                self._refuse(path, error)
                self._places = {other: place for other, place in self._places.items() if place[0] != path}
        return None

    def write(self) -> None:
        """Write the waiting rows to a file named after their keys: the same rows replace a damaged file of theirs."""
        keys, tensors = " ".join(self.waiting.places), self.waiting.tensors()
        path = self.folder / f"{hashlib.sha256(keys.encode()).hexdigest()[:16]}.safetensors"
        digest = _digest(self.about, keys, tensors)
        header = {"format": _FORMAT, "about": self.about, "keys": keys, "sha256": digest}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(tensors, header))
        self._opened.pop(path, None)
        self._places |= {key: (path, number) for key, number in self.waiting.places.items()}
        self.waiting.clear()

    def _open(self, path: Path) -> dict[str, Tensor]:
        if path not in self._opened:
            keys, tensors = " ".join(_read_keys(path, self.about)), load_file(path)
            if _digest(self.about, keys, tensors) != _header(path)["sha256"]:
                raise ValueError("its content has changed")
            if any(len(values) != len(keys.split()) or not torch.isfinite(values).all() for values in tensors.values()):
                raise ValueError("it must have one finite row per image")
            while len(self._opened) >= _OPEN_FILES:
                self._opened.pop(next(iter(self._opened)))
            self._opened[path] = tensors
        return self._opened[path]

    def _refuse(self, path: Path, error: Exception) -> None:
        if path.name not in self._named:
            self._named.add(path.name)
            reason = " ".join(str(error).split())[:200]
            _log.warning("%s is no file of this cache (%s); what it should hold is computed again.", path, reason)


_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    if header.get("format") != _FORMAT:
        raise ValueError("it holds something else")
    return header


def _read_keys(path: Path, about: str) -> list[str]:
    """Return the keys of a file; raise ValueError where it is of another network."""
    header = _header(path)
    if header["about"] != about:
        raise ValueError("it is of another network, variant, device or number of images")
    keys = header["keys"].split(" ")
    if len(set(keys)) < len(keys) or not all(map(_KEY.fullmatch, keys)):
        raise ValueError("its keys must be different hashes")
    return keys


def _about_of(path: Path) -> dict[str, str | int] | None:
    try:
        about = parse_json(_header(path)["about"], str(path))
    except _UNREADABLE:
        return None  # `_Part.index` names it
    return about if isinstance(about, dict) else None


def _canonical(about: Mapping[str, str | int]) -> str:
    return json.dumps(about, sort_keys=True)


def _digest(about: str, keys: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256("\n".join([about, keys, tensors_hash(tensors)]).encode()).hexdigest()


def _folder_name(about: Mapping[str, str | int]) -> str:
    """Return a readable folder name that differs for all networks, variants, devices and sizes of a pass."""
    words = [str(about[name]) for name in ("network", "device", "batch") if name in about]
    readable = re.sub(r"[^\w.-]+", "-", "-".join(words))[:60].lstrip(".")
    return f"{readable}-{hashlib.sha256(_canonical(about).encode()).hexdigest()[:12]}"
