"""Panoramas whose latents and text embeddings were made before training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mvdiff.batch import blank_images
from mvdiff.data.damage import WrongSettings
from mvdiff.data.panoramas import PanoramaDataset, view_prompts
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.panoramas import ShardedPanoramas
from mvdiff.data.shards.reading import ShardSet

EMPTY = "empty.safetensors"
"""File of a set with the embedding of the empty prompt, which text dropout needs."""
TEXT = "text.safetensors"
"""Member of a sample with the embeddings of its prompts."""


@dataclass(frozen=True)
class Encoding:
    """Encoders and settings that made the latents and embeddings of shards.

    Attributes:
        hashes: Weights hash of the autoencoder ("vae") and of the text encoder ("text_encoder").
        prompt_prefix: Text before every prompt.
        empty_text: [L, D] embedding of the empty prompt.
    """

    hashes: dict[str, str]
    prompt_prefix: str
    empty_text: Tensor


def to_bytes(values: Tensor) -> bytes:
    """Return a tensor as the content of a member."""
    return save({"value": values.contiguous()})


def from_bytes(content: bytes, where: str) -> Tensor:
    """Return the tensor of a member.

    Raises:
        ValueError: It holds something else.
    """
    try:
        return load(content)["value"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{where} must hold a tensor ({error}). Write the shards again.") from error


class ShardLatents(ShardedPanoramas):
    """Panoramas of shards of latents.

    Args:
        shard_set: The shards.
        split: Name of the split.
    """

    def __init__(self, shard_set: ShardSet, split: str) -> None:
        super().__init__(shard_set.split(split))
        self.shard_set = shard_set
        self.settings: dict[str, Any] = shard_set.manifest.settings
        self.cuts = Cuts.from_dict(self.settings)

    @property
    def dataset_class(self) -> type[EncodedPanoramaDataset]:
        """Class of the samples."""
        return EncodedPanoramaDataset

    @cached_property
    def encoding(self) -> Encoding:
        """Encoders and settings that made the latents and embeddings."""
        empty = from_bytes(self.shard_set.file(EMPTY), self.shard_set.store.place(EMPTY))
        return Encoding(dict(self.settings["hashes"]), self.settings["prompt_prefix"], empty.float())

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Raise WrongSettings: there are no pictures."""
        raise WrongSettings(f"{self.samples.store.root} must hold pictures to cut views; it holds latents.")

    def encoded(self, index: int, yaw_deg: float, mirrored: bool) -> tuple[Tensor, list[str], Tensor]:
        """Return the latents [V, C, h, w] of a cut, the texts of a panorama [N], and their embeddings [N, L, D].

        Raises:
            WrongSettings: There is no such cut.
        """
        cut = f"{self.cuts.name(yaw_deg, mirrored)}.safetensors"
        members = self.samples.sample(index, ("json", TEXT, cut))
        texts = self._parsed(index, members["json"])["texts"]
        latents, embeddings = (from_bytes(members[name], self.samples.place(index, name)) for name in (cut, TEXT))
        return latents.float(), texts, embeddings.float()


class EncodedPanoramaDataset(PanoramaDataset):
    """Samples with `latents` [V, C, h, w] and `text` [V, L, D] in place of pictures; see `PanoramaDataset`."""

    source: ShardLatents
    has_pictures = False

    def cut(self, index: int, yaw_deg: float, mirrored: bool = False) -> dict[str, Any]:
        """Return blank `images`, `K`, `R`, `prompts`, `latents` and `text` of a cut."""
        rig, cuts = self.rig, self.source.cuts
        if rig != cuts.rig:
            raise WrongSettings(cuts.other(str(rig)))
        latents, texts, embeddings = self.source.encoded(index, yaw_deg, mirrored)
        prompts = view_prompts(self.source.captions(index), rig, yaw_deg, mirrored)
        K, R = rig.cameras()
        return {
            "images": blank_images(rig.num_views, 3, rig.height, rig.width),
            "K": K,
            "R": R,
            "prompts": prompts,
            "latents": latents,
            "text": embeddings[torch.tensor([texts.index(prompt) for prompt in prompts])],
        }
