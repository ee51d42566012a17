"""Data that bring latents and text embeddings: what a run must agree with to use them."""

from __future__ import annotations

from typing import Any

from mvdiff.data.shards.latents import Encoding
from mvdiff.models.backbone import Backbone


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


def without_encoders(encoding: Encoding | None) -> dict[str, str]:
    """Return the parts that a run with `cache.encoded_data` does not load, with their hashes.

    Raises:
        ValueError: The data have no latents and embeddings.
    """
    if encoding is None:
        raise ValueError(
            "data.root must hold shards of latents (mvdiff data shard --what latents) when model.cache.encoded_data is "
            "true."
        )
    return encoding.hashes


def check_encoders(backbone: Backbone, encoding: Encoding) -> None:
    """Raise ValueError if a base's encoders are not those that made the data."""
    for part, expected in encoding.hashes.items():
        if (found := backbone.weights_hashes([part])[part]) != expected:
            raise ValueError(
                f"the {part} of model.base must be the one that made the shards of latents (weights {expected}); got "
                f"weights {found}. Write the shards again."
            )
