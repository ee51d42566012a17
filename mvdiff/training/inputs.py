"""Compute a model's inputs from a batch: latents, the task's condition images, text embeddings, text dropout.

Random draws depend on keys, never on the rest of the batch. Axes: B samples, V views, C latent channels, h w latent.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch, view_key
from mvdiff.keyed import keyed_generator
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.opening import family_path
from mvdiff.models.prompts import PromptEncoder
from mvdiff.settings import CacheSettings
from mvdiff.text_states import TextStates, states_to
from mvdiff.training.cache import TensorCache, cached_text
from mvdiff.training.captions import CaptionCounter

Prompts = list[list[str | None]]
"""Prompts per sample and view; None is the empty prompt of text dropout."""


class BatchInputs(ABC):
    """Compute latents and text embeddings of batches, optionally cached on disk.

    Args:
        backbone: Base with a frozen autoencoder.
        seed: Random seed of the autoencoder's noise and of text dropout.
        prompt_prefix: Text put before every prompt.
        cache: Cache settings. A cached latent is drawn once for all epochs, and looked up by its image's pixels.
        frozen_text: False for a text encoder in training: gradients are kept, and embeddings are not cached.
    """

    keeps_pictures: ClassVar[bool]
    """Cache the condition images' latents too if latents are cached."""

    def __init__(
        self, backbone: Base, seed: int, prompt_prefix: str, cache: CacheSettings, frozen_text: bool = True
    ) -> None:
        self.backbone = backbone
        self.seed = seed
        self.prompt_prefix = prompt_prefix
        self.cache = None if cache.dir is None else TensorCache(cache.dir)
        self.cache_latents, self.text_only = cache.latents, cache.text_only
        self.frozen_text = frozen_text
        self._prompts = PromptEncoder(self._embed, prompt_prefix, partial(self._embed, negative=True))
        self.empty_text: Tensor | None = None  # [L, D] embedding of the empty prompt, for data with embeddings
        self.captions = CaptionCounter(backbone.text_context(), prompt_prefix)

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return self.backbone.unet.device

    def latents(self, batch: MultiViewBatch) -> Tensor:
        """Encode a batch's images to latents [B, V, C, h, w], or return those that it has."""
        if batch.latents is not None:
            return batch.latents.to(self.device)
        return self.encode(batch, batch.images, "latent", self.cache_latents)

    def encoder(self, batch: MultiViewBatch, latents: Tensor) -> BatchEncoder:
        """Return the encoder of a task's condition.

        Args:
            batch: Batch to encode images for.
            latents: [B, V, C, h, w] latents of the batch, see `latents`.
        """
        return BatchEncoder(self, batch, latents)

    @torch.no_grad()
    def encode(self, batch: MultiViewBatch, images: Tensor, purpose: str, cached: bool = False) -> Tensor:
        """Encode images [B, V, 3, H, W] of a batch to latents [B, V, C, h, w]; `purpose` is part of the noise key."""
        encode = self._cached_sample if cached else self._drawn_sample
        return torch.stack([encode(batch, i, images[i], purpose) for i in range(batch.batch_size)]).to(self.device)

    def _drawn_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        return self._draw(images, purpose, self.seed, batch.epoch, int(batch.sample_index[i]))

    def _cached_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        yaw = None if batch.yaw_deg is None else float(batch.yaw_deg[i])
        keys = self._keys_of_cut(batch.sample_id[i], yaw, batch.mirrored is not None and bool(batch.mirrored[i]))
        cache_key = (self.noise_key(purpose), self.encoded_by("vae"), *keys, *_content(images))
        return self.cache.fetch(lambda: self._draw(images, purpose, *keys), *cache_key)

    def _keys_of_cut(self, sample_id: str, yaw_deg: float | None, mirrored: bool) -> tuple[int | str, ...]:
        return self.seed, sample_id, "no yaw" if yaw_deg is None else f"yaw {yaw_deg}", int(mirrored)

    @torch.no_grad()
    def latents_of_cut(self, images: Tensor, sample_id: str, yaw_deg: float, mirrored: bool) -> Tensor:
        """Encode the views [V, 3, H, W] of a cut as a cache of latents draws them, the same in every epoch.

        Returns:
            [V, C, h, w], on the CPU.
        """
        yaw = float(torch.tensor(yaw_deg, dtype=torch.float32))  # as in a batch
        return self._draw(images, "latent", *self._keys_of_cut(sample_id, yaw, mirrored)).cpu()

    def _draw(self, images: Tensor, purpose: str, *keys: int | str) -> Tensor:
        return self.backbone.encode_images(images, self.noise(len(images), purpose, *keys))

    @abstractmethod
    def noise_key(self, purpose: str) -> str:
        """Return the first key of the autoencoder's noise."""

    @abstractmethod
    def noise(self, num_views: int, purpose: str, *keys: int | str) -> torch.Generator | list[torch.Generator]:
        """Return one generator, or one per view, for the autoencoder's noise of one sample."""

    def text(self, prompts: Sequence[Sequence[str | None]], batch: MultiViewBatch | None = None) -> TextStates:
        """Embed B x V prompts with the prefix as [B, V, L, D], or several tensors by name (`mvdiff.text_states`).

        Args:
            prompts: The prompts after text dropout; None is the empty prompt.
            batch: Batch of the prompts, whose own embeddings are taken if it has them.
        """
        if batch is None or batch.text is None:
            return self._prompts(prompts)
        text = batch.text.to(self.device, self.backbone.unet.dtype)
        dropped = torch.tensor([[prompt is None for prompt in sample] for sample in prompts], device=self.device)
        if not bool(dropped.any()):
            return text
        return torch.where(dropped[:, :, None, None], self.empty_text.to(text), text)

    def count_captions(self, batch: MultiViewBatch) -> None:
        """Count a batch's captions, without padding; see `CaptionCounter`."""
        pairs = zip(chain.from_iterable(batch.prompts), batch.view_valid.flatten().tolist(), strict=True)
        self.captions.add(caption for caption, is_valid in pairs if is_valid)

    def negative_text(self, prompts: Sequence[Sequence[str]]) -> TextStates:
        """Embed B x V prompts without prefix as [B, V, L, D]."""
        return self._prompts.negative(prompts)

    @torch.no_grad()
    def embedding(self, text: str) -> Tensor:
        """Embed one text, prefix included, by itself, as a cache of embeddings does: [L, D], on the CPU."""
        return self.backbone.encode_prompts([text])[0].cpu()

    def _embed(self, texts: list[str], negative: bool = False) -> TextStates:
        if not self.frozen_text:
            return self._encoding(negative)(texts)
        return self.embed(texts, self.device, negative)

    def _encoding(self, negative: bool) -> Callable[[list[str]], TextStates]:
        return self.backbone.encode_negative_prompts if negative else self.backbone.encode_prompts

    def embed(self, texts: list[str], device: torch.device, negative: bool = False) -> TextStates:
        """Embed N texts, prefix included, with the cache if there is one, onto a device.

        Args:
            texts: Prompts or, if `negative`, negative prompts.
            device: Device of the result.
            negative: See `Base.encode_negative_prompts`.

        Raises:
            ValueError: With `cache.text_only`, the cache lacks a text.
        """
        encoder, base = "", self.backbone
        if self.cache:
            own = family_path(type(base)) or ""  # a family outside the package may encode in its own way
            encoder = self.encoded_by("text_encoder") + base.text_settings(negative) + own
        missing = [text for text in texts if not self.cache.has("text", encoder, text)] if self.text_only else []
        if missing:
            raise ValueError(
                "cache.dir must hold the text of every prompt when model.cache.text_only is true; got none of "
                f"{missing[0]!r}. Run `mvdiff data cache-text --config RUN.yaml`, with this precision."
            )
        with torch.no_grad():
            text = cached_text(self.cache, encoder, self._encoding(negative), texts, base.to_cache, base.from_cache)
            return states_to(text, device, base.unet.dtype)

    def encoded_by(self, part: str) -> str:
        """Return a part's weights hash and compute precision, for cache keys."""
        device = self.device.type
        dtype = getattr(self.backbone, part).dtype
        if torch.is_autocast_enabled(device) and dtype == torch.float32:
            dtype = torch.get_autocast_dtype(device)
        return f"{self.backbone.weights_hashes([part])[part]} {dtype}"

    @abstractmethod
    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Return a batch's prompts, each replaced by None with probability `chance`."""

    def _is_dropped(self, chance: float, purpose: str, *keys: int) -> bool:
        return float(torch.rand((), generator=keyed_generator(purpose, self.seed, *keys))) < chance


@dataclass(frozen=True)
class BatchEncoder:
    """`mvdiff.tasks.task.Encoder` for training."""

    inputs: BatchInputs
    batch: MultiViewBatch
    latents: Tensor

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell along each side."""
        return self.inputs.backbone.vae_stride

    def pictures(self, images: Tensor, purpose: str) -> Tensor:
        """Encode images [B, V, 3, H, W]; see `mvdiff.tasks.task.Encoder`."""
        cached = self.inputs.cache_latents and self.inputs.keeps_pictures
        return self.inputs.encode(self.batch, images, purpose, cached)

    def given(self, views: Tensor) -> Tensor:
        """Return the latents of all views of the batch, which the loss needs anyway."""
        return self.latents


def _content(images: Tensor) -> tuple[str, str]:
    """Return shape and hash of pixels, for cache keys."""
    digest = hashlib.blake2b(images.cpu().contiguous().numpy(), digest_size=20).hexdigest()
    return str(list(images.shape)), digest


class MultiViewInputs(BatchInputs):
    """Compute the inputs of a multi-view UNet, with draws keyed by (seed, epoch, sample index).

    Args:
        *args: See `BatchInputs`.
        views_return: Cache latents per view instead of per sample, see `Task.views_return`.
    """

    keeps_pictures = True

    def __init__(self, *args: Any, views_return: bool = False) -> None:
        super().__init__(*args)
        self.views_return = views_return

    def _cached_sample(self, batch: MultiViewBatch, i: int, images: Tensor, purpose: str) -> Tensor:
        if not self.views_return:
            return super()._cached_sample(batch, i, images, purpose)
        return torch.stack([self._cached_view(image, purpose) for image in images])

    def _cached_view(self, image: Tensor, purpose: str) -> Tensor:
        keys = ("frame", self.seed, *_content(image))
        cache_key = (self.noise_key(purpose), self.encoded_by("vae"), *keys)
        return self.cache.fetch(lambda: self._draw(image[None], purpose, *keys)[0], *cache_key)

    def noise_key(self, purpose: str) -> str:
        """Return the purpose in the plural, since one generator draws for all views of a sample."""
        return f"{purpose}s"

    def noise(self, num_views: int, purpose: str, *keys: int | str) -> torch.Generator:
        """Return the one generator of all views of a sample."""
        return keyed_generator(self.noise_key(purpose), *keys)

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Drop all prompts of a sample with probability `chance`, keyed by (seed, epoch, sample index)."""
        return [
            [None] * len(sample) if self._is_dropped(chance, "text-dropout", batch.epoch, index) else list(sample)
            for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True)
        ]


class SingleViewInputs(BatchInputs):
    """Compute inputs of views as independent images, with draws keyed by (seed, epoch, sample index, view).

    Condition images are not cached, since those of single views rarely repeat.
    """

    keeps_pictures = False

    def noise_key(self, purpose: str) -> str:
        """Return the purpose, since each view has its own generator."""
        return purpose

    def noise(self, num_views: int, purpose: str, *keys: int | str) -> list[torch.Generator]:
        """Return one generator per view."""
        *shared, sample = keys
        return [keyed_generator(purpose, *shared, view_key(sample, view)) for view in range(num_views)]

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> Prompts:
        """Drop the prompt of a view with probability `chance`, keyed by (seed, epoch, sample index, view)."""
        return [
            [
                None if self._is_dropped(chance, "text", batch.epoch, view_key(index, view)) else prompt
                for view, prompt in enumerate(sample)
            ]
            for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True)
        ]
