"""Sample folders: the on-disk contract between generating and scoring.

One folder is one multi-view sample::

    <root>/<sample id>/0.png ... <V-1>.png   the views of the rig, in its order
                       panorama.png          optional, the stitched panorama
                       sample.json           written last and atomically: its presence marks the folder complete

Folders in upstream's layout (``<i>.png``, ``<i>_natural.png`` for the ground truth, ``prompt.txt``) are read as well;
they carry no cameras, so a rig is assumed (the paper's ring of 8) or given.

Legend: V views, H W image. ``images`` are float in [-1, 1], ``images_uint8`` integers in [0, 255].
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvdiff.geometry.cameras import Rig, RingRig

SCHEMA_VERSION = 1
RECORD_NAME = "sample.json"
PANORAMA_NAME = "panorama.png"
PROMPT_NAME = "prompt.txt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleRecord:
    """Describe one sample: what ``sample.json`` holds.

    Args:
        sample_id: Name of the sample, unique within its root.
        prompts: One prompt per view, as given to the model (without the prefix that the model adds).
        rig: ``Rig.to_dict()`` of the views, or None where ``cameras`` is given.
        cameras: ``{"height", "width", "views": [{"K": 3x3, "R": 3x3}, ...]}`` (see `describe_cameras`), or None.
        seed: Seed of the noise, or None for images that were not sampled (ground truth).
        settings: Whatever else shaped the images (steps, guidance, model...). ``settings["truth"]`` may list what each
            view shows (a dict or None per view), which the caption agreement reads.
        versions: Library versions.
        schema_version: Version of this layout.
    """

    sample_id: str
    prompts: list[str]
    rig: dict[str, Any] | None = None
    cameras: dict[str, Any] | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = RECORD_NAME) -> SampleRecord:
        """Build a record from parsed JSON; ``where`` is named in errors.

        Raises:
            ValueError: A key is unknown or missing, or the schema is another one.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} must hold a JSON object; got {type(values).__name__}. Write the sample again.")
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version must be {SCHEMA_VERSION}; got {version!r}, in {where}. "
                "Read the sample with the mvdiff version that wrote it, or generate it again."
            )
        known = set(cls.__dataclass_fields__)
        unknown, missing = sorted(set(values) - known), sorted({"sample_id", "prompts"} - set(values))
        if unknown or missing:
            raise ValueError(
                f"sample record must have the keys of schema {SCHEMA_VERSION}; got unknown {unknown}, "
                f"missing {missing}, in {where}. Generate the sample again."
            )
        return cls(**values)

    def camera_tensors(self) -> tuple[Tensor, Tensor, int, int]:
        """Return the sample's cameras.

        Returns:
            ``(K, R, height, width)``: intrinsics [V, 3, 3] in pixels, world-from-camera rotations [V, 3, 3], both
            float32, and the image size that K refers to.

        Raises:
            ValueError: The record has neither a rig nor cameras.
        """
        if self.cameras is not None:
            K = torch.tensor([view["K"] for view in self.cameras["views"]], dtype=torch.float32)
            R = torch.tensor([view["R"] for view in self.cameras["views"]], dtype=torch.float32)
            return K, R, int(self.cameras["height"]), int(self.cameras["width"])
        if self.rig is not None:
            rig = Rig.from_dict(self.rig)
            return *rig.cameras(), rig.height, rig.width
        raise ValueError(
            f"sample {self.sample_id!r} must have a rig or cameras; got neither. Give a rig when reading it."
        )


def describe_cameras(K: Tensor, R: Tensor, height: int, width: int) -> dict[str, Any]:
    """Turn camera tensors into the ``cameras`` entry of a record.

    Args:
        K: [V, 3, 3] intrinsics, pixels.
        R: [V, 3, 3] world-from-camera rotations.
        height: Image height that K refers to.
        width: Image width that K refers to.
    """
    views = [{"K": k.tolist(), "R": r.tolist()} for k, r in zip(K.double().cpu(), R.double().cpu(), strict=True)]
    return {"height": int(height), "width": int(width), "views": views}


@dataclass(frozen=True)
class Sample:
    """A sample folder opened for reading; images are read when asked for."""

    folder: Path
    record: SampleRecord
    view_paths: tuple[Path, ...]
    natural_paths: tuple[Path, ...] = ()

    @property
    def num_views(self) -> int:
        """Number of views."""
        return len(self.view_paths)

    def images_uint8(self) -> Tensor:
        """Read the views: uint8 [V, 3, H, W]."""
        return _read_views(self.view_paths)

    def natural_uint8(self) -> Tensor:
        """Read upstream's ground-truth views beside the generated ones: uint8 [V, 3, H, W]."""
        if not self.natural_paths:
            raise FileNotFoundError(
                f"{self.folder} must hold <i>_natural.png for every view; got none. Give a reference folder instead."
            )
        return _read_views(self.natural_paths)

    def panorama_uint8(self) -> Tensor | None:
        """Read the panorama: uint8 [3, H, W], or None where the folder has none."""
        path = self.folder / PANORAMA_NAME
        return _read_image(path) if path.exists() else None


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to integers in [0, 255]; values outside are clipped. The shape is kept.

    Raises:
        ValueError: A value is NaN or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist()
        [0, 128, 255, 255]
    """
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images must be finite; got NaN or inf. Look for an overflow in the model (try float32).")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images_uint8: Tensor) -> Tensor:
    """Map integers in [0, 255] to float32 images in [-1, 1]; the inverse of `to_uint8`."""
    return images_uint8.float() / 127.5 - 1


def sample_folder(root: str | Path, sample_id: str) -> Path:
    """Return the folder of a sample; ids with slashes stay one level, distinct ids stay distinct.

    Example:
        >>> sample_folder("out", "scene/pano 1").as_posix()
        'out/scene%2Fpano%201'
    """
    name = quote(str(sample_id), safe="")
    return Path(root) / ("%2E" + name[1:] if name.startswith(".") else name)


def is_complete(folder: str | Path) -> bool:
    """Tell whether a folder holds a finished sample (its ``sample.json`` is there)."""
    return (Path(folder) / RECORD_NAME).is_file()


def write_sample(
    folder: str | Path,
    record: SampleRecord,
    views: Tensor | np.ndarray,
    panorama: Tensor | np.ndarray | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one sample folder; ``sample.json`` comes last, so a killed run leaves no complete-looking folder.

    Args:
        folder: The sample's own folder, made when absent.
        record: What to write into ``sample.json``; one prompt per view.
        views: uint8 [V, H, W, 3].
        panorama: uint8 [H', W', 3], or None.
        overwrite: Replace a complete sample.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds a complete sample and ``overwrite`` is False.
        ValueError: Shapes, dtypes or counts do not fit.
        OSError: The folder cannot be written (full disk, no permission); the sample stays incomplete.
    """
    folder = Path(folder)
    views = _check_uint8(views, "views", "[V, H, W, 3]", 4)
    if panorama is not None:
        panorama = _check_uint8(panorama, "panorama", "[H, W, 3]", 3)
    if len(record.prompts) != len(views):
        raise ValueError(
            f"prompts must be one per view ({len(views)}); got {len(record.prompts)}, in sample {record.sample_id!r}. "
            "Repeat a prompt that serves every view."
        )
    if is_complete(folder) and not overwrite:
        raise FileExistsError(f"{folder} must not hold a complete sample; got one. Skip it, or pass overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_NAME).unlink(missing_ok=True)
        for stale in [*_numbered(folder, ".png"), folder / PANORAMA_NAME]:
            stale.unlink(missing_ok=True)
        for i, view in enumerate(views):
            (folder / f"{i}.png").write_bytes(_png(view))
        if panorama is not None:
            (folder / PANORAMA_NAME).write_bytes(_png(panorama))
        write_json(folder / RECORD_NAME, asdict(record))
    except OSError as error:
        raise OSError(
            error.errno,
            f"sample folder {folder} must be writable; got {error.strerror or error}. Free space or choose another "
            "folder, then run again: complete samples are kept",
        ) from error
    return folder


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically: a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: The file cannot be written; nothing half-written stays behind.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path


def find_samples(root: str | Path) -> list[Path]:
    """List the complete sample folders at or below a root, sorted; incomplete ones are counted in a warning.

    Raises:
        FileNotFoundError: The root does not exist.
    """
    complete, incomplete = scan_samples(root)
    if incomplete:
        logger.warning("%s: %d incomplete sample folder(s) left out, e.g. %s", root, len(incomplete), incomplete[0])
    return complete


def scan_samples(root: str | Path) -> tuple[list[Path], list[Path]]:
    """List the sample folders at or below a root: ``(complete, incomplete)``, each sorted.

    A folder with ``0.png`` but neither ``sample.json`` nor upstream's ``prompt.txt`` is incomplete.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"sample root must be a folder; got {root}. Check the path.")
    complete, incomplete = [], []
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        if RECORD_NAME in names or ("0.png" in names and PROMPT_NAME in names):
            complete.append(Path(folder))
        elif "0.png" in names:
            incomplete.append(Path(folder))
    return sorted(complete), sorted(incomplete)


def read_sample(folder: str | Path, rig: Rig | None = None) -> Sample:
    """Open a sample folder of either layout.

    Args:
        folder: A folder with ``sample.json``, or one in upstream's layout (``<i>.png``, ``prompt.txt``).
        rig: Cameras of an upstream folder; default: the paper's ring of 8 (FoV 90, 45 degrees apart) at the images' own
            size. A folder with ``sample.json`` brings its own cameras and ignores it.

    Raises:
        FileNotFoundError: The folder is incomplete, or a view is missing.
        ValueError: ``sample.json`` cannot be read, or counts do not fit.
    """
    folder = Path(folder)
    if is_complete(folder):
        record = _read_record(folder / RECORD_NAME)
        paths = tuple(folder / f"{i}.png" for i in range(len(record.prompts)))
        _require(paths)
        return Sample(folder, record, paths)
    paths = tuple(_numbered(folder, ".png"))
    if not paths or not (folder / PROMPT_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} must hold sample.json, or 0.png and prompt.txt; got an incomplete sample. Generate it again."
        )
    paths = tuple(folder / f"{i}.png" for i in range(len(paths)))
    _require(paths)
    if rig is None:
        height, width = _read_image(paths[0]).shape[-2:]
        rig = RingRig(num_views=8, fov_deg=90.0, height=height, width=width)
    if rig.num_views != len(paths):
        raise ValueError(
            f"rig must have as many views as the folder ({len(paths)}); got {rig.num_views}, in {folder}. Give its rig."
        )
    natural = tuple(folder / f"{i}_natural.png" for i in range(len(paths)))
    natural = natural if any(path.exists() for path in natural) else ()
    _require(natural)
    record = SampleRecord(folder.name, _read_prompts(folder / PROMPT_NAME, len(paths)), rig=rig.to_dict())
    return Sample(folder, record, paths, natural)


def _read_record(path: Path) -> SampleRecord:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"sample.json must be readable JSON; got {error}, in {path}. Generate the sample again."
        ) from error
    return SampleRecord.from_dict(values, where=str(path))


def _read_prompts(path: Path, num_views: int) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) == 1:
        return lines * num_views
    if len(lines) != num_views:
        raise ValueError(
            f"prompt.txt must have one line, or one per view ({num_views}); got {len(lines)}, in {path}. Fix the file."
        )
    return lines


def _numbered(folder: Path, suffix: str) -> list[Path]:
    found = [path for path in folder.glob(f"*{suffix}") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem))


def _require(paths: Sequence[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{paths[0].parent} must hold every view; {missing} missing. Generate the sample again."
        )


def _read_views(paths: Sequence[Path]) -> Tensor:
    views = [_read_image(path) for path in paths]
    for path, view in zip(paths, views, strict=True):
        if view.shape != views[0].shape:
            raise ValueError(
                f"views of a sample must have one size; got {list(view.shape[1:])} beside {list(views[0].shape[1:])}, "
                f"in {path}. Generate the sample again."
            )
    return torch.stack(views)


def _read_image(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"image must be readable; got {error}, in {path}. Generate the sample again.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check_uint8(values: Tensor | np.ndarray, name: str, shape: str, ndim: int) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3:
        raise ValueError(
            f"{name} must be uint8 of shape {shape}; got {array.dtype} {list(array.shape)}. "
            "Use to_uint8 and put the channels last."
        )
    return array


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
