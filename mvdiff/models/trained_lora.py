"""A LoRA of the base's UNet that is trained beside the adapter: low-rank updates of some linear layers (peft).

Weights have the names of diffusers without the prefix of the part: `down_blocks.0...to_q.lora_A.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor

from mvdiff.files.text import parse_json
from mvdiff.models.loading import opening
from mvdiff.models.named_weights import NamedWeights

LORA_NAME = "trained"
"""Name of the LoRA among those of a pipeline, for `set_adapters` of diffusers."""
LORA_FILE = "pytorch_lora_weights.safetensors"
_IN_PEFT = re.compile(rf"\.(lora_[AB])\.{LORA_NAME}\.")


def add_lora(
    unet: UNet2DConditionModel, rank: int, alpha: float | None, target_modules: Sequence[str], seed: int
) -> dict[str, Any]:
    """Add a fresh LoRA, which changes nothing, to a UNet in place; hash the base's weights before.

    Args:
        unet: UNet of the base.
        rank: Rank of the updates, at least 1.
        alpha: Scale of the updates times the rank; None: `rank`.
        target_modules: Names of linear layers or convolutions, or their last parts, such as "to_q".
        seed: Random seed of fresh weights; the global random state is not changed.

    Returns:
        Config of the LoRA in plain values.

    Raises:
        ValueError: A name of `target_modules` fits no layer.
    """
    from peft import LoraConfig

    layers = [name for name, _ in unet.named_modules()]
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise ValueError(f"lora.target_modules must name layers of the base's UNet, such as to_q; got {target!r}.")
    config = {"r": rank, "lora_alpha": rank if alpha is None else alpha, "target_modules": list(target_modules)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(**config), adapter_name=LORA_NAME)
    return config


def lora_weights(unet: UNet2DConditionModel) -> NamedWeights:
    """Return the weights of the trained LoRA. Sharding replaces the parameters: call this again after it."""
    return NamedWeights(
        {_IN_PEFT.sub(r".\1.", name): value for name, value in unet.named_parameters() if _IN_PEFT.search(name)}
    )


@dataclass(frozen=True)
class TrainedLora:
    """Weights and config of a trained LoRA, apart from a UNet.

    Attributes:
        config: `r`, `lora_alpha` and `target_modules`, see `add_lora`.
        weights: Tensors by name, see `lora_weights`.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write the file that `load_lora_weights` of diffusers reads."""
        weights = {name: value.contiguous() for name, value in self.weights.items()}
        StableDiffusionPipeline.save_lora_weights(
            str(folder), unet_lora_layers=weights, unet_lora_adapter_metadata=dict(self.config), weight_name=LORA_FILE
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file that `save` wrote.

        Raises:
            FileNotFoundError: There is no file.
            ValueError: The file cannot be read.
        """
        path = folder / LORA_FILE
        if not path.is_file():
            raise FileNotFoundError(f"LoRA must be a folder with {LORA_FILE}; got {folder}.")
        with opening("LoRA", LORA_FILE, folder), safe_open(path, framework="pt") as file:
            weights = {name.removeprefix("unet."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = parse_json((file.metadata() or {})["lora_adapter_metadata"], "lora_adapter_metadata")
        return cls({name.removeprefix("unet."): value for name, value in config.items()}, weights)
