"""Inputs of a model from a batch: latents, pictures for the task's condition, text embeddings, text dropout.

Everything drawn is a function of keys, never of the batch. Axes: B samples, V views, C latent channels, h w latent.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch, view_key
from mvdiff.keyed import keyed_generator
from mvdiff.models.backbone import Backbone
from mvdiff.models.prompts import PromptEncoder
from mvdiff.settings import CacheSettings
from mvdiff.training.cache import TensorCache, cached_text

Prompts = list[list[str | None]]
"""Per sample and view; None is the empty prompt of text dropout."""


class BatchInputs(ABC):
    """Prepare batches for any UNet of a base: latents and text embeddings, kept on disk where asked for.

    Args:
        backbone: The base; its autoencoder is frozen.
        seed: Seed of the autoencoder's noise and of text dropout.
        prompt_prefix: Put before every prompt.
        cache: What is kept on disk. A cached latent is drawn once, for all epochs, and found by its image's pixels.
        frozen_text: False for a text encoder that trains: gradients flow, and nothing of it is kept.
    """

    keeps_pictures: ClassVar[bool]
    """Keep pictures for a task's condition on disk where latents are kept."""

    def __init__(
        self, backbone: Backbone, seed: int, prompt_prefix: str, cache: CacheSettings, frozen_text: bool = True
    ) -> None:
        self.backbone = backbone
        self.seed = seed
        self.cache = None if cache.dir is None else TensorCache(cache.dir)
        self.cache_latents = cache.latents
        self.frozen_text = frozen_text
        self._prompts = PromptEncoder(self._embed, prompt_prefix)

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.backbone.unet.device

    def latents(self, batch: MultiViewBatch) -> Tensor:
        """Encode a batch's images into [B, V, C, h, w]."""
        return self.encode(batch, batch.images, "latent", self.cache_latents)

    def encoder(self, batch: MultiViewBatch, latents: Tensor) -> BatchEncoder:
        """Return what a task's condition encodes with; `latents` are those of the batch."""
        return BatchEncoder(self, batch, latents)

    @torch.no_grad()
    def encode(self, batch: MultiViewBatch, images: Tensor, purpose: str, cached: bool = False) -> Tensor:
        """Encode images [B, V, 3, H, W] of a batch into [B, V, C, h, w]; other purposes draw other noise."""
        encode = self._cached_sample if cached else self._drawn_sample
        return torch.stack([encode(batch, i, images[i], purpose) for i in range(batch.batch_size)]).to(self.device)

    def _drawn_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        return self._draw(images, purpose, self.seed, batch.epoch, int(batch.sample_index[i]))

    def _cached_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        yaw = "no yaw" if batch.yaw_deg is None else f"yaw {float(batch.yaw_deg[i])}"
        keys = (self.seed, batch.sample_id[i], yaw, 0 if batch.mirrored is None else int(batch.mirrored[i]))
        found_by = (self.noise_key(purpose), self._encoded_by("vae"), *keys, *_content(images))
        return self.cache.fetch(lambda: self._draw(images, purpose, *keys), *found_by)

    def _draw(self, images: Tensor, purpose: str, *keys: int | str) -> Tensor:
        return self.backbone.encode_images(images, self.noise(len(images), purpose, *keys))

    @abstractmethod
    def noise_key(self, purpose: str) -> str:
        """Return the first key of the autoencoder's noise."""

    @abstractmethod
    def noise(self, num_views: int, purpose: str, *keys: int | str) -> torch.Generator | list[torch.Generator]:
        """Return the generators of the autoencoder's noise of one sample."""

    def text(self, prompts: Sequence[Sequence[str | None]]) -> Tensor:
        """Embed B x V prompts into [B, V, L, D]."""
        return self._prompts(prompts)

    def negative_text(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Embed B x V prompts that have no prefix into [B, V, L, D]."""
        return self._prompts.negative(prompts)

    def _embed(self, texts: list[str]) -> Tensor:
        if not self.frozen_text:
            return self.backbone.encode_prompts(texts)
        encoder = self._encoded_by("text_encoder") if self.cache else ""
        with torch.no_grad():
            return cached_text(self.cache, encoder, self.backbone.encode_prompts, texts).to(
                self.device, self.backbone.unet.dtype
            )

    def _encoded_by(self, part: str) -> str:
        """Name the encoder: the weights of a part of the base and the precision they compute in."""
        device = self.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else getattr(self.backbone, part).dtype
        return f"{self.backbone.weights_hashes([part])[part]} {dtype}"

    @abstractmethod
    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Return a batch's prompts, some of them dropped."""

    def _is_dropped(self, chance: float, purpose: str, *keys: int) -> bool:
        return float(torch.rand((), generator=keyed_generator(purpose, self.seed, *keys))) < chance


@dataclass(frozen=True)
class BatchEncoder:
    """`mvdiff.tasks.task.Encoder` in training."""

    inputs: BatchInputs
    batch: MultiViewBatch
    latents: Tensor

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell."""
        return self.inputs.backbone.vae_stride

    def pictures(self, images: Tensor, purpose: str) -> Tensor:
        """Encode pictures of the batch's size."""
        cached = self.inputs.cache_latents and self.inputs.keeps_pictures
        return self.inputs.encode(self.batch, images, purpose, cached)

    def given(self, views: Tensor) -> Tensor:
        """Return the latents of the batch, which the loss noises anyway."""
        return self.latents


def _content(images: Tensor) -> tuple[str, str]:
    """Return shape and hash of pixels, by which the cache finds them."""
    digest = hashlib.blake2b(images.cpu().contiguous().numpy(), digest_size=20).hexdigest()
    return str(list(images.shape)), digest


class MultiViewInputs(BatchInputs):
    """Prepare batches for a multi-view UNet: everything is keyed by (seed, epoch, sample index).

    Args:
        *args: See `BatchInputs`.
        views_return: The task's: views come back in other samples, so latents are kept on disk view by view.
    """

    keeps_pictures = True

    def __init__(self, *args: Any, views_return: bool = False) -> None:
        super().__init__(*args)
        self.views_return = views_return

    def _cached_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        if not self.views_return:
            return super()._cached_sample(batch, i, images, purpose)
        return torch.stack([self._kept_frame(image, purpose) for image in images])

    def _kept_frame(self, image: Tensor, purpose: str) -> Tensor:
        keys = ("frame", self.seed, *_content(image))
        found_by = (self.noise_key(purpose), self._encoded_by("vae"), *keys)
        return self.cache.fetch(lambda: self._draw(image[None], purpose, *keys)[0], *found_by)

    def noise_key(self, purpose: str) -> str:
        """Return the plural: one generator draws for all views of a sample."""
        return f"{purpose}s"

    def noise(self, num_views: int, purpose: str, *keys: int | str) -> torch.Generator:
        """Return the generator of a sample."""
        return keyed_generator(self.noise_key(purpose), *keys)

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Drop all prompts of a chosen few samples, keyed by (seed, epoch, sample index)."""
        return [
            [None] * len(sample) if self._is_dropped(chance, "text-dropout", batch.epoch, index) else list(sample)
            for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True)
        ]


class SingleViewInputs(BatchInputs):
    """Prepare batches whose views are images of their own: everything is keyed by (seed, epoch, sample index, view).

    Pictures for a task's condition are encoded each time: those of single views do not come back.
    """

    keeps_pictures = False

    def noise_key(self, purpose: str) -> str:
        """Return the purpose: each view has a generator of its own."""
        return purpose

    def noise(self, num_views: int, purpose: str, *keys: int | str) -> list[torch.Generator]:
        """Return a generator per view."""
        *shared, sample = keys
        return [keyed_generator(purpose, *shared, view_key(sample, view)) for view in range(num_views)]

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Drop the prompts of a chosen few views, keyed by (seed, epoch, sample index, view)."""
        return [
            [
                None if self._is_dropped(chance, "text", batch.epoch, view_key(index, view)) else prompt
                for view, prompt in enumerate(sample)
            ]
            for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True)
        ]
