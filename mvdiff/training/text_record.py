"""The record in a cache of text embeddings of the text encoders that made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mvdiff.files.text import read_json_object
from mvdiff.models.backbone import base_parts

RECORD = "text_encoders.json"
"""File of a cache that maps the files of a text encoder to the hash of its weights."""
_READ = 2**24


def encoder_files(base: str | Path, revision: str | None = None) -> str:
    """Return a hash of all files of a base's text encoders, without loading them.

    Raises:
        FileNotFoundError: The base does not exist.
    """
    folders = [folder for part, folder in base_parts(base, revision).items() if part.startswith("text_encoder")]
    digest = hashlib.blake2b(digest_size=16)
    for path in (path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()):
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size};".encode())
        with open(path, "rb") as file:
            while block := file.read(_READ):
                digest.update(block)
    return digest.hexdigest()


def recorded_hash(cache_dir: str | Path, base: str | Path, revision: str | None = None) -> str:
    """Return the weights hash of a base's text encoder, as `fill` recorded it.

    Raises:
        ValueError: The cache has none of this text encoder.
    """
    path = Path(cache_dir) / RECORD
    recorded = read_json_object(path) if path.is_file() else {}
    files = encoder_files(base, revision)
    if files not in recorded:
        raise ValueError(
            f"cache.dir must hold the text of {base} when model.cache.text_only is true; got none, in {cache_dir}. Run "
            "`mvdiff data cache-text --config RUN.yaml`."
        )
    return recorded[files]
