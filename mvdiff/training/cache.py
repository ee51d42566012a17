"""Disk caches of a frozen base's text embeddings and latents.

The name of an entry is a hash of everything that it depends on, including the base's weights, so entries never become
stale. Writes are atomic, so ranks and runs may share a folder.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mvdiff.files.writing import whole_file


class TensorCache:
    """Cache of tensors on disk.

    Args:
        folder: Folder of the cache; created when the first entry is written.

    Example:
        >>> import tempfile
        >>> cache = TensorCache(tempfile.mkdtemp())
        >>> cache.fetch(lambda: torch.ones(2), "text", "base hash", "a kitchen")
        tensor([1., 1.])
        >>> cache.fetch(lambda: torch.zeros(2), "text", "base hash", "a kitchen")
        tensor([1., 1.])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def fetch(self, compute: Callable[[], Tensor], *keys: str | int | float) -> Tensor:
        """Return the entry of `keys` on the CPU; compute and write it if it is missing.

        Args:
            compute: Computes the tensor; called only if the entry is missing.
            *keys: Everything that the tensor depends on.

        Raises:
            ValueError: The entry cannot be read.
            OSError: The entry cannot be written, for example on a full disk.
        """
        name = hashlib.blake2b(repr(keys).encode(), digest_size=20).hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["value"]
            except (SafetensorError, KeyError, OSError) as error:
                raise ValueError(
                    f"files in cache.dir must be readable; got {path} ({error}). Delete that file."
                ) from error
        value = compute().detach().cpu().contiguous()
        self._write(path, value)
        return value

    def _write(self, path: Path, value: Tensor) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(save({"value": value}))
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cache.dir must be a writable folder with free space; got {self.folder}: {error}."
            ) from error


def cached_text(
    cache: TensorCache | None, encoder: str, encode: Callable[[list[str]], Tensor], prompts: Sequence[str]
) -> Tensor:
    """Encode N prompts to [N, L, D].

    With a cache, every prompt is encoded alone, so that its embedding does not depend on the batch that first had it.

    Args:
        cache: Cache of embeddings; None: encode all prompts as one batch.
        encoder: Weights hash and precision of the text encoder, part of the cache key.
        encode: Maps N texts to [N, L, D].
        prompts: N texts.

    Returns:
        [N, L, D], on the CPU with a cache, otherwise on the device of `encode`.
    """
    if cache is None:
        return encode(list(prompts))
    entries = {p: cache.fetch(lambda p=p: encode([p])[0], "text", encoder, p) for p in dict.fromkeys(prompts)}
    return torch.stack([entries[prompt] for prompt in prompts])


def check_latents_come_back(data: Any) -> None:
    """Raise ValueError if a data module cuts views at random yaws, so that cached latents would rarely be reused."""
    if getattr(data, "yaw", None) == "random":
        raise ValueError(
            "data.yaw must be a list of degrees when model.cache.latents is true; got 'random', with which latents are "
            "rarely reused."
        )
