"""Parts of a base that a run does not load, since their outputs come from shards or from a cache."""

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
    device = torch.device("cpu")
    use_slicing = False

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        self.name = name
        self.config = config

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ValueError: the part was not loaded."""
        raise ValueError(
            f"model.cache.text_only and model.cache.encoded_data must be false to use the {self.name}; got true."
        )

    forward = encode = decode = refuse

    def to(self, *args: Any, **kwargs: Any) -> AbsentPart:
        """Set the precision that outputs had; there are no weights to move."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.dtype):
                self.dtype = value
        return self

    def enable_slicing(self) -> None:
        """Do nothing."""
