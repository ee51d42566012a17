"""Data that bring latents and text embeddings: what a run must agree with to use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvdiff.data.shards.latents import Encoding
from mvdiff.models.backbone import encoder_hashes


def encoding_of(data: Any, prompt_prefix: str) -> Encoding | None:
    """Return what a data module's latents and embeddings were made with; None: it has none.

    Raises:
        ValueError: They were made with another prefix.
    """
    encoding = getattr(data, "encoding", None)
    if encoding is not None and encoding.prompt_prefix != prompt_prefix:
        raise ValueError(
            f"model.prompt_prefix must be that of the shards of latents, {encoding.prompt_prefix!r}; got "
            f"{prompt_prefix!r}."
        )
    return encoding


def without_encoders(
    encoding: Encoding | None, base: str, revision: str | None, vae: str | None, family: str | None
) -> dict[str, str]:
    """Return the parts that a run with `cache.encoded_data` does not load, with their hashes.

    The files of the run's own encoders are read once and compared with what made the data. A base without the weight
    files of an encoder cannot be compared: the encoder that made the data counts as its own.

    Raises:
        ValueError: The data have no latents and embeddings, or the base has other encoders than those that made them.
    """
    if encoding is None:
        raise ValueError(
            "data.root must hold shards of latents (mvdiff data shard --what latents) when model.cache.encoded_data is "
            "true."
        )
    hashes = encoding.hashes | encoder_hashes(base, revision, vae, family)
    check_encoders(hashes, encoding)
    return hashes


def check_encoders(hashes: Mapping[str, str], encoding: Encoding) -> None:
    """Raise ValueError if a base's encoders, by the hashes of their weights, are not those that made the data."""
    for part, expected in encoding.hashes.items():
        if (found := hashes[part]) != expected:
            raise ValueError(
                f"the {part} of model.base must be the one that made the shards of latents (weights {expected}); got "
                f"weights {found}. Write the shards again."
            )
