"""Disk caches of text embeddings and latents, which a frozen base would compute again and again.

Every entry's name is a hash of everything it depends on (the base's weights first), so an entry is never stale, and
writes are atomic, so ranks and runs may share a folder.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class TensorCache:
    """Tensors on disk by keys; the folder is made when the first entry is written.

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
        """Return the entry of `keys` on the CPU, computing and writing it if it is not there.

        Args:
            compute: Gives the tensor; called only on a miss.
            *keys: Everything that the tensor depends on.

        Raises:
            ValueError: An entry cannot be read.
            OSError: An entry cannot be written, for example on a full disk.
        """
        name = hashlib.blake2b(repr(keys).encode(), digest_size=20).hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["value"]
            except SafetensorError as error:
                raise ValueError(f"cache.dir must hold readable files; got {path}: {error}. Delete it.") from error
        value = compute().detach().cpu().contiguous()
        self._write(path, value)
        return value

    def _write(self, path: Path, value: Tensor) -> None:
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            os.close(handle)
            save_file({"value": value}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise OSError(
                f"cache.dir must be a writable folder with free space; got {self.folder}: {error}."
            ) from error


def cached_text(
    cache: TensorCache | None, encoder: str, encode: Callable[[list[str]], Tensor], prompts: Sequence[str]
) -> Tensor:
    """Encode N prompts into [N, L, D]: in one batch, or each new one once where there is a cache (then on the CPU).

    With a cache every prompt is encoded alone, so that its embedding does not depend on its neighbours in the batch
    that met it first. `encoder` names the base's weights and precision.
    """
    if cache is None:
        return encode(list(prompts))
    entries = {p: cache.fetch(lambda p=p: encode([p])[0], "text", encoder, p) for p in dict.fromkeys(prompts)}
    return torch.stack([entries[prompt] for prompt in prompts])


def check_latents_come_back(data: Any) -> None:
    """Raise ValueError where a data module cuts its views at random yaws: cached latents would not come back."""
    if getattr(data, "yaw", None) == "random":
        raise ValueError(
            "data.yaw must be a list of degrees when model.cache.latents is true; got 'random', with which hardly any "
            "latent is met twice."
        )
