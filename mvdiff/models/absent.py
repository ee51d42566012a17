"""Parts of a base that a run does not load, since their outputs come from shards."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn


class AbsentPart(nn.Module):
    """Stands in for an autoencoder or a text encoder: it has the config, no weights, and refuses to run.

    Args:
        name: "vae" or "text_encoder".
        config: Config of the part.
    """

    dtype = torch.float32
    use_slicing = False

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        self.name = name
        self.config = config

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ValueError: the part was not loaded."""
        raise ValueError(
            f"model.cache.encoded_data must be false to use the {self.name}, which latent shards do without; got true."
        )

    forward = encode = decode = refuse

    def enable_slicing(self) -> None:
        """Do nothing."""
