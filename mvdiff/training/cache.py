"""Disk caches of a frozen base's text embeddings and latents.

The name of an entry is a hash of everything that it depends on, including the base's weights, so entries never become
stale. Writes are atomic, so ranks and runs may share a folder.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mvdiff.files.writing import whole_file
from mvdiff.text_states import TextStates, map_states, stack_states


class TensorCache:
    """Cache of tensors on disk.

    Args:
        folder: Folder of the cache; created when the first entry is written.

    Example:
        >>> import tempfile, torch
        >>> cache = TensorCache(tempfile.mkdtemp())
        >>> cache.fetch(lambda: torch.ones(2), "text", "base hash", "a kitchen")
        tensor([1., 1.])
        >>> cache.fetch(lambda: torch.zeros(2), "text", "base hash", "a kitchen")
        tensor([1., 1.])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def fetch(self, compute: Callable[[], TextStates], *keys: str | int | float) -> TextStates:
        """Return the entry of `keys` on the CPU; compute and write it if it is missing.

        Args:
            compute: Computes the tensor, or several by name; called only if the entry is missing.
            *keys: Everything that the tensor depends on.

        Raises:
            ValueError: The entry cannot be read.
            OSError: The entry cannot be written, for example on a full disk.
        """
        path = self._path(keys)
        if path.is_file():
            try:
                values = load_file(path)
                return values["value"] if len(values) < 2 else values
            except (SafetensorError, KeyError, OSError) as error:
                raise ValueError(
                    f"files in cache.dir must be readable; got {path} ({error}). Delete that file."
                ) from error
        value = map_states(lambda one: one.detach().cpu().contiguous(), compute())
        self._write(path, {"value": value} if isinstance(value, Tensor) else value)
        return value

    def has(self, *keys: str | int | float) -> bool:
        """Return True if there is an entry of `keys`."""
        return self._path(keys).is_file()

    def _path(self, keys: tuple[str | int | float, ...]) -> Path:
        name = hashlib.blake2b(repr(keys).encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _write(self, path: Path, values: dict[str, Tensor]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(save(values))
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cache.dir must be a writable folder with free space; got {self.folder}: {error}."
            ) from error


def cached_text(
    cache: TensorCache | None,
    encoder: str,
    encode: Callable[[list[str]], TextStates],
    prompts: Sequence[str],
    keep: Callable[[TextStates], TextStates] = lambda text: text,
    restore: Callable[[TextStates], TextStates] = lambda text: text,
) -> TextStates:
    """Encode N prompts to [N, L, D], or to several tensors by name.

    With a cache, every prompt is encoded alone, so that its embedding does not depend on the batch that first had it.

    Args:
        cache: Cache of embeddings; None: encode all prompts as one batch.
        encoder: Weights hash and precision of the text encoder, part of the cache key.
        encode: Maps N texts to [N, L, D].
        prompts: N texts.
        keep: What the cache keeps of the embeddings of one prompt, see `Base.to_cache`.
        restore: Its inverse, see `Base.from_cache`.

    Returns:
        [N, ...], on the CPU with a cache, otherwise on the device of `encode`.
    """
    if cache is None:
        return encode(list(prompts))

    def computed(prompt: str) -> TextStates:
        return keep(map_states(lambda one: one[0], encode([prompt])))

    entries = {p: restore(cache.fetch(lambda p=p: computed(p), "text", encoder, p)) for p in dict.fromkeys(prompts)}
    return stack_states([entries[prompt] for prompt in prompts])


def check_latents_come_back(data: Any) -> None:
    """Raise ValueError if a data module cuts views at random yaws, so that cached latents would rarely be reused."""
    if getattr(data, "yaw", None) == "random":
        raise ValueError(
            "data.yaw must be a list of degrees when model.cache.latents is true; got 'random', with which latents are "
            "rarely reused."
        )
